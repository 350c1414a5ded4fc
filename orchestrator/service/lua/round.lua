-- ARGV: 2 take or give, 3 token of the holder, 4 length in milliseconds.
local held = redis.call('GET', key('round'))
if ARGV[2] == 'give' then
  if held == ARGV[3] then redis.call('DEL', key('round')) end
  return refused('ok')
end
if held and held ~= ARGV[3] then return refused('held') end
redis.call('SET', key('round'), ARGV[3], 'PX', ARGV[4])
return refused('ok') -- not kept: the holder may take it twice
