-- ARGV: 2 id, 3 name of the idempotency record or "", 4 digest of the body, 5 hours kept in seconds, 6 SHA-256 of the configuration,
-- 7 configuration, 8 data of the event, 9 number of indexes, then their names, then fields and JSON texts.
local id, idem = ARGV[2], ARGV[3]
if idem ~= '' then
  local known = redis.call('HMGET', key('idem', idem), 'id', 'body')
  if known[1] then
    if known[2] ~= ARGV[4] then return refused('reused', known[1]) end
    return refused('known', redis.call('HGET', key('texts'), known[1]))
  end
end
if redis.call('EXISTS', key('experiment', id)) == 1 then return refused('taken') end

local record, first = {}, 10 + tonumber(ARGV[9])
for i = first, #ARGV, 2 do record[ARGV[i]] = ARGV[i + 1] end
record.seq = whole(redis.call('INCR', key('seq')))
record.queued_at = seconds(now)
if tonumber(record.submitted_at) == 0 then record.submitted_at = seconds(now) end

redis.call('SET', key('config', ARGV[6]), ARGV[7])
redis.call('ZADD', key('all'), record.seq, id)
redis.call('ZADD', key('state', 'queued'), record.seq, id)
for i = 10, first - 1 do redis.call('ZADD', key(ARGV[i]), record.seq, id) end
local text = save(id, record, record)
if idem ~= '' then
  redis.call('HSET', key('idem', idem), 'id', id, 'body', ARGV[4])
  redis.call('EXPIRE', key('idem', idem), ARGV[5])
end
tell(id, 'submitted', ARGV[8])
wake()
return done('new', text)
