-- ARGV: 2 id, 3 what is wanted, 4 states that hold resources, 5 states that may be cancelled at once, 6 who, as JSON text, 7 reason.
local id, wanted, record = ARGV[2], ARGV[3], load(ARGV[2])
if not record then return refused('missing') end
local goal = wanted == 'cancel' and '"cancelled"' or wanted == 'pause' and '"paused"' or ''
if record.state == goal or (record.wanted == quoted(wanted) and among(record.state, ARGV[4])) then
  return refused('ok', text_of(record))
end
if among(record.state, ARGV[4]) then
  if record.wanted == '"cancel"' then return refused('state', text_of(record)) end -- a cancel is never taken back
  local text = save(id, record, { wanted = quoted(wanted) })
  tell(id, 'wanted', '{"wanted":' .. quoted(wanted) .. ',"by":' .. ARGV[6] .. '}')
  wake()
  return done('ok', text)
end
if wanted == 'cancel' and among(record.state, ARGV[5]) then
  local changes = let_go(id, record, '"cancelled"', ARGV[7], '""')
  return done('ok', move(id, record, changes, ARGV[6]))
end
return refused('state', text_of(record))
