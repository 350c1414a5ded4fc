-- What has changed since revision ARGV[1], at most ARGV[2] experiments, seen by somebody who follows the states ARGV[3], ARGV[4], ….
-- KEYS[1]: prefix. Answers {run of the server, revision reached, JSON array of those in these states, ids of the others}.
local base = KEYS[1]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local rows = redis.call('ZRANGEBYSCORE', base .. 'changes', '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local here, gone, reached = {}, {}, redis.call('GET', base .. 'rev') or '0'
for i = 1, #rows, 2 do
  local id, follows = rows[i], false
  for j = 3, #ARGV do follows = follows or redis.call('ZSCORE', base .. 'state:' .. ARGV[j], id) end
  if follows then here[#here + 1] = redis.call('HGET', base .. 'texts', id) else gone[#gone + 1] = id end
end
if #rows == 2 * tonumber(ARGV[2]) then reached = rows[#rows] end
return { run, reached, '[' .. table.concat(here, ',') .. ']', table.concat(gone, ' ') }
