-- ARGV: 2 states with a lease, 3 length of the lease in seconds, then id, lease, id, lease, … Answers the ids that are lost.
local lost = {}
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  local record = load(id)
  if record and record.lease == ARGV[i + 1] and among(record.state, ARGV[2]) then
    save(id, record, { lease_until = seconds(now + tonumber(ARGV[3])) })
  else
    lost[#lost + 1] = id
  end
end
return refused('ok', table.concat(lost, ' ')) -- not kept: doing it twice does no harm
