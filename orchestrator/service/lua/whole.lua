-- Everything in some states as one JSON array, oldest first. KEYS[1]: prefix. ARGV: states.
local CHUNK, parts = 4000, {} -- Lua passes at most some 8000 arguments
for _, state in ipairs(ARGV) do
  local ids = redis.call('ZRANGE', KEYS[1] .. 'state:' .. state, 0, -1)
  for first = 1, #ids, CHUNK do
    local texts = redis.call('HMGET', KEYS[1] .. 'texts', unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
    for _, text in ipairs(texts) do parts[#parts + 1] = text end
  end
end
return '[' .. table.concat(parts, ',') .. ']'
