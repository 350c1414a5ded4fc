-- Put before every script that changes something. An experiment is a hash whose values are JSON texts, so that a script compares and
-- joins them without decoding; `texts` holds the joined document, which is all that readers fetch.
-- KEYS[1]: prefix of all keys. ARGV[1]: token of this call, the same when it is sent again after a lost connection.

local CALL_S = 90 -- a call is sent again for at most the longest patience, 60 s
local EVENTS_OF_ALL = 100000 -- approximate lengths; older events are dropped
local EVENTS_OF_ONE = 20000
local NEWS = 100
local PAST_S = 86400 -- how long a run that has ended can count for its user's others, and how many of them
local PAST_RUNS = 5000

local base = KEYS[1]

local function key(kind, name)
  if name then return base .. kind .. ':' .. name end
  return base .. kind
end

local told = redis.call('GET', key('call', ARGV[1]))
if told then return told end -- this call has had its effect: the reply was lost

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function seconds(value) return string.format('%.6f', value) end
local function whole(value) return string.format('%d', value) end
local function plain(literal) return string.sub(literal, 2, -2) end
local function quoted(name) return '"' .. name .. '"' end

local function among(literal, names)
  return string.find(',' .. names .. ',', ',' .. plain(literal) .. ',', 1, true) ~= nil
end

local function done(status, payload)
  local reply = status .. '\n' .. (payload or '')
  redis.call('SET', key('call', ARGV[1]), reply, 'EX', CALL_S)
  return reply
end

local function refused(status, payload) return status .. '\n' .. (payload or '') end

local function load(id)
  local flat = redis.call('HGETALL', key('experiment', id))
  if #flat == 0 then return nil end
  local record = {}
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record
end

local function text_of(record)
  local parts = {}
  for name, literal in pairs(record) do parts[#parts + 1] = '"' .. name .. '":' .. literal end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function save(id, record, changes)
  local flat = {}
  if changes.state and changes.state ~= record.state then
    redis.call('ZREM', key('state', plain(record.state)), id)
    redis.call('ZADD', key('state', plain(changes.state)), record.seq, id)
  end
  for name, literal in pairs(changes) do
    record[name] = literal
    flat[#flat + 1] = name
    flat[#flat + 1] = literal
  end
  record.rev = whole(redis.call('INCR', key('rev')))
  redis.call('HSET', key('experiment', id), 'rev', record.rev, unpack(flat))
  redis.call('ZADD', key('changes'), record.rev, id)
  local text = text_of(record)
  redis.call('HSET', key('texts'), id, text)
  return text
end

local function tell(id, kind, data)
  local fields = { 'experiment', id, 'kind', kind, 'at', seconds(now), 'data', data }
  local event = redis.call('XADD', key('events'), 'MAXLEN', '~', EVENTS_OF_ALL, '*', unpack(fields))
  redis.call('XADD', key('events', id), 'MAXLEN', '~', EVENTS_OF_ONE, event, unpack(fields))
end

local function wake() redis.call('XADD', key('news'), 'MAXLEN', '~', NEWS, '*', 'n', '1') end

-- by: JSON text of who did it
local function move(id, record, changes, by)
  local before = record.state
  local text = save(id, record, changes)
  tell(id, 'state', '{"before":' .. before .. ',"state":' .. record.state .. ',"reason":' .. record.reason ..
    ',"cause":' .. record.cause .. ',"attempt":' .. record.attempt .. ',"by":' .. by .. '}')
  return text
end

-- What has started since it was queued, and has ended, still counts for the turn of its user's others.
local function remember(id, record)
  if tonumber(record.first_started_at or '0') < tonumber(record.queued_at) then return end
  redis.call('ZADD', key('past'), now, '{"id":' .. quoted(id) .. ',"user":' .. record.user .. ',"queued_at":' .. record.queued_at ..
    ',"first_started_at":' .. record.first_started_at .. '}')
  redis.call('ZREMRANGEBYSCORE', key('past'), '-inf', now - PAST_S)
  redis.call('ZREMRANGEBYRANK', key('past'), 0, -PAST_RUNS - 1)
end

-- The end of a hold: state, reason, cause as JSON texts. What a user asked for meanwhile is not lost: a cancel wins over everything but
-- success, a pause over another try. What is tried again keeps its place in the queue: `queued_at` stays.
local function let_go(id, record, state, reason, cause, by)
  if record.wanted == '"cancel"' and state ~= '"succeeded"' then
    state, cause = '"cancelled"', '""'
    if reason == '""' then reason = '"cancelled on request"' end
  elseif record.wanted == '"pause"' and state == '"queued"' then
    state = '"paused"'
  end
  local changes = { state = state, reason = reason, cause = cause, wanted = '""', owner = '""', lease_until = '0.0' }
  if state ~= '"queued"' and state ~= '"paused"' then
    changes.ended_at = seconds(now)
    remember(id, record)
  end
  wake()
  return changes
end
