-- ARGV: 2 id, 3 states from which it may start, 4 scheduler as JSON text, 5 length of the lease in seconds, 6 id of the job or "",
-- 7 token of the round or "".
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if ARGV[7] ~= '' and redis.call('GET', key('round')) ~= ARGV[7] then return refused('late') end
if not among(record.state, ARGV[3]) or tonumber(record.not_before) > now then return refused('state') end
local attempt = whole(tonumber(record.attempt) + 1)
local job = id .. '-' .. attempt
if ARGV[6] ~= '' and ARGV[6] ~= job and string.sub(ARGV[6], 1, #id + 1) == id .. '-' then
  return refused('late') -- meant for an attempt that another scheduler has made
end
local first = record.first_started_at or '0.0' -- a record of an earlier version has none
if tonumber(first) < tonumber(record.queued_at) then first = seconds(now) end
return done('ok', move(id, record, {
  state = '"starting"', attempt = attempt, job = quoted(ARGV[6] ~= '' and ARGV[6] or job), owner = ARGV[4], wanted = '""',
  lease = whole(tonumber(record.lease) + 1), lease_until = seconds(now + tonumber(ARGV[5])), started_at = seconds(now),
  first_started_at = first, reason = '""', cause = '""' }, ARGV[4]))
