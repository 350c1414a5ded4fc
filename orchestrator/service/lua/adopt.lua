-- ARGV: 2 id, 3 states with a lease, 4 scheduler as JSON text, 5 length of the lease in seconds.
local id, record = ARGV[2], load(ARGV[2])
if not record then return refused('missing') end
if not among(record.state, ARGV[3]) or tonumber(record.lease_until) > now then return refused('state') end
local before = record.owner
local text = save(id, record, { owner = ARGV[4], lease = whole(tonumber(record.lease) + 1),
  lease_until = seconds(now + tonumber(ARGV[5])) })
tell(id, 'note', '{"text":"another scheduler looks after it now","before":' .. before .. ',"by":' .. ARGV[4] .. '}')
return done('ok', text)
