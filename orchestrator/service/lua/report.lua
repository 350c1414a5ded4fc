-- ARGV: 2 id, 3 attempt, 4 states with a job, 5 kind of event or "", 6 its data, 7 number of samples to keep, 8 number of samples,
-- then the samples as JSON texts, then fields and JSON texts to set.
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if record.attempt ~= ARGV[3] or not among(record.state, ARGV[4]) then return refused('fenced', text_of(record)) end
local first, changes = 9 + tonumber(ARGV[8]), {}
for i = 9, first - 1 do redis.call('RPUSH', key('samples', id), ARGV[i]) end
if first > 9 then redis.call('LTRIM', key('samples', id), -tonumber(ARGV[7]), -1) end
for i = first, #ARGV, 2 do changes[ARGV[i]] = ARGV[i + 1] end
if next(changes) then save(id, record, changes) end
if ARGV[5] ~= '' then tell(id, ARGV[5], ARGV[6]) end
return done('ok', plain(record.wanted))
