-- ARGV: 2 id, 3 states from which it may go on, 4 who, as JSON text, 5 overrides to append, a JSON array, 6 demand as JSON text or "",
-- 7 SHA-256 of a new configuration or "", 8 that configuration, 9 "keep": its place in the queue, else "".
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if not among(record.state, ARGV[3]) then return refused('state', text_of(record)) end
local changes = { state = '"queued"', wanted = '""', reason = '""', cause = '""', owner = '""', retries = '{}',
  not_before = '0.0', ended_at = '0.0', lease_until = '0.0' }
if ARGV[9] ~= 'keep' then changes.queued_at = seconds(now) end
if ARGV[5] ~= '[]' then
  local old = record.overrides
  changes.overrides = old == '[]' and ARGV[5] or (string.sub(old, 1, -2) .. ',' .. string.sub(ARGV[5], 2))
end
if ARGV[6] ~= '' then changes.demand = ARGV[6] end
if ARGV[7] ~= '' then
  redis.call('SET', key('config', ARGV[7]), ARGV[8])
  changes.config_sha256 = quoted(ARGV[7])
end
wake()
return done('ok', move(id, record, changes, ARGV[4]))
