-- Reads one page, newest first. KEYS[1]: prefix. ARGV: 1 experiments wanted, 2 only those with a lower sequence number, 3 most to look
-- at in one call, 4 states with commas or "", then names of indexes that must all hold. Answers {next or "", text, text, …}.
local base, wanted, before, most, states = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), {}
for state in string.gmatch(ARGV[4], '[^,]+') do states[#states + 1] = base .. 'state:' .. state end
local must = {}
for i = 5, #ARGV do must[#must + 1] = base .. ARGV[i] end

-- Walk along the shortest of the indexes; look the others up.
local walk, length = { base .. 'all' }, redis.call('ZCARD', base .. 'all')
for _, name in ipairs(must) do
  local held = redis.call('ZCARD', name)
  if held <= length then walk, length = { name }, held end
end
local held = 0
for _, name in ipairs(states) do held = held + redis.call('ZCARD', name) end
if #states > 0 and held <= length then walk = states end

local rows, full = {}, false
for _, name in ipairs(walk) do
  local flat = redis.call('ZREVRANGEBYSCORE', name, before, '-inf', 'WITHSCORES', 'LIMIT', 0, most)
  full = full or #flat == 2 * most
  for i = 1, #flat, 2 do rows[#rows + 1] = { flat[i], tonumber(flat[i + 1]) } end
end
if #walk > 1 then table.sort(rows, function(a, b) return a[2] > b[2] end) end

local found, looked = {}, 0
for _, row in ipairs(rows) do
  if #found == wanted or looked == most then break end
  looked = looked + 1
  local fits = #states == 0 or walk == states
  if not fits then
    for _, name in ipairs(states) do fits = fits or redis.call('ZSCORE', name, row[1]) end
  end
  for _, name in ipairs(must) do fits = fits and redis.call('ZSCORE', name, row[1]) end
  if fits then found[#found + 1] = redis.call('HGET', base .. 'texts', row[1]) end
end
local more = looked < #rows or full
table.insert(found, 1, more and looked > 0 and '(' .. string.format('%d', rows[looked][2]) or '')
return found
