-- ARGV: 2 id, 3 kind of the fence (lease or attempt), 4 its value, 5 states this may follow, 6 state, 7 reason and 8 cause as JSON texts,
-- 9 earliest next launch, 10 what the retry is counted under or "", 11 who as JSON text, "": its owner.
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if record[ARGV[3]] ~= ARGV[4] then return refused('fenced', text_of(record)) end
if not among(record.state, ARGV[5]) then return refused('state', text_of(record)) end
local changes = let_go(id, record, quoted(ARGV[6]), ARGV[7], ARGV[8])
if changes.state == '"queued"' then
  changes.not_before = ARGV[9]
  if ARGV[10] ~= '' then
    local retries = cjson.decode(record.retries)
    retries[ARGV[10]] = (retries[ARGV[10]] or 0) + 1
    changes.retries = cjson.encode(retries)
  end
end
return done('ok', move(id, record, changes, ARGV[11] ~= '' and ARGV[11] or record.owner))
