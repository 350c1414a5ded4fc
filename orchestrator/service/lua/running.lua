-- ARGV: 2 id, 3 attempt, 4 states it may follow, 5 states with a job, 6 who as JSON text.
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if record.attempt ~= ARGV[3] or not among(record.state, ARGV[5]) then return refused('fenced', text_of(record)) end
if not among(record.state, ARGV[4]) then return refused('ok', plain(record.wanted)) end -- it runs already
move(id, record, { state = '"running"' }, ARGV[6])
return done('ok', plain(record.wanted))
