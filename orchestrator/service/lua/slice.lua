-- Part of what is in one state, oldest first. KEYS[1]: prefix. ARGV: 1 state, 2 only those with a higher sequence number, 3 most.
-- Answers {sequence number of the last one or "", JSON array}.
local rows = redis.call('ZRANGEBYSCORE', KEYS[1] .. 'state:' .. ARGV[1], ARGV[2], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
if #rows == 0 then return { '', '[]' } end
local ids = {}
for i = 1, #rows, 2 do ids[#ids + 1] = rows[i] end
local texts = redis.call('HMGET', KEYS[1] .. 'texts', unpack(ids))
return { '(' .. rows[#rows], '[' .. table.concat(texts, ',') .. ']' }
