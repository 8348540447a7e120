-- Every change of the outbox in Redis is one run of this script. All keys have one tag, so that a cluster keeps them together.
--
--   rows    hash   id -> body (encoded), not read here          heads  hash  id -> what the script must know of it
--   keys    hash   name of an idempotency key -> id             seq    counter: the age of a row
--   pairs   zset   <pair>:<seq>:<id>: ordered rows that are queued or in flight
--   flying  hash   pair -> id: the ordered row that is in flight
--   timed   zset   id by the time at which somebody must look: expiry of queued, deadline of unknown ones
--   lanes   set    numbers that have streams                    state  zset  one for each state: id by its last change
--   later   zset   queued rows that are not due yet
--   direct, ready:0 to 9  streams: what is sent at once, and what is to be sent by priority. Their consumer group says
--           who has what in flight; what a dead consumer had is claimed after the lease.
--   taken   what a consumer took last; lives an hour
--
-- A row is changed only by whoever states its fence. A row that is queued has an entry in a stream, or is in `later`, or
-- waits for another row of its pair to end.
local ROWS, HEADS, NAMES, PAIRS, FLYING, SEQ, TIMED, LANES = unpack(KEYS, 1, 8)
local STATES = {}
local ORDER = {'queued', 'in_flight', 'accepted', 'sent', 'delivered', 'read', 'played', 'rejected', 'failed', 'unknown', 'dead'}
for n, state in ipairs(ORDER) do STATES[state] = KEYS[8 + n] end
local LATER, DIRECT, TAKEN = KEYS[20], 21, KEYS[32]
local function ready(priority) return 22 + tonumber(priority) end
local function stream_of(h) return h.direct == '1' and DIRECT or ready(h.priority) end
local GROUP = 'senders'

local op, consumer = ARGV[1], ARGV[2]

local function head(id)
  local found = redis.call('HGET', HEADS, id)
  return found and cjson.decode(found) or nil
end

local function save(id, h) redis.call('HSET', HEADS, id, cjson.encode(h)) end

local function told(id, h) return {id, redis.call('HGET', ROWS, id), h.state, h.due, h.fence} end

local function read(stream, count)
  local key = KEYS[stream]
  local found = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
  if found and found.err then  -- no group yet
    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
    found = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
  end
  return found and found[1] and found[1][2] or {}
end

local function done(stream, entry)
  redis.pcall('XACK', KEYS[stream], GROUP, entry)
  redis.call('XDEL', KEYS[stream], entry)
end

local function member(id, h) return h.pair .. ':' .. h.seq .. ':' .. id end

local function first_of(pair)
  local found = redis.call('ZRANGEBYLEX', PAIRS, '[' .. pair .. ':', '[' .. pair .. ';', 'LIMIT', 0, 1)
  return found[1]
end

local function blocked(id, h)
  if h.pair == '' then return false end
  return redis.call('HEXISTS', FLYING, h.pair) == 1 or first_of(h.pair) ~= member(id, h)
end

local function put(id, h, direct)
  h.direct = direct
  h.entry = redis.call('XADD', KEYS[stream_of(h)], '*', 'id', id)
end

local function schedule(id, h, now)
  if blocked(id, h) then return end
  if tonumber(h.due) <= tonumber(now) then put(id, h, '0') else redis.call('ZADD', LATER, h.due, id) end
end

local function release(pair, now)
  local first = first_of(pair)
  if not first or redis.call('HEXISTS', FLYING, pair) == 1 then return end
  local id = string.sub(first, #pair + 19)
  local h = head(id)
  if h and h.state == 'queued' and h.entry == '' and not redis.call('ZSCORE', LATER, id) then
    schedule(id, h, now)
    save(id, h)
  end
end

local function leave(id, h)
  if h.entry ~= '' then done(stream_of(h), h.entry) end
  h.entry = ''
  redis.call('ZREM', LATER, id)
  redis.call('ZREM', TIMED, id)
  redis.call('ZREM', STATES[h.state], id)
  if h.pair ~= '' and redis.call('HGET', FLYING, h.pair) == id then redis.call('HDEL', FLYING, h.pair) end
end

local function enter(id, h, changed)
  redis.call('ZADD', STATES[h.state], changed, id)
  local waits = h.state == 'queued' or h.state == 'in_flight'
  if h.pair ~= '' then
    redis.call(waits and 'ZADD' or 'ZREM', PAIRS, unpack(waits and {0, member(id, h)} or {member(id, h)}))
  end
  if h.state == 'queued' then
    redis.call('ZADD', TIMED, h.not_after, id)
    schedule(id, h, changed)
  elseif h.state == 'in_flight' then
    put(id, h, '1')
    read(DIRECT, 1)  -- nobody else reads it, so this is the entry that was just put there
    if h.pair ~= '' then redis.call('HSET', FLYING, h.pair, id) end
  elseif h.state == 'unknown' and h.due ~= '' then
    redis.call('ZADD', TIMED, h.due, id)
  end
  save(id, h)
  if h.pair ~= '' and not waits then release(h.pair, changed) end
end

local function add(id, name, pair, priority, state, due, not_after, changed, created, lane, body)
  local known = redis.call('HEXISTS', HEADS, id) == 1 and id or (name ~= '' and redis.call('HGET', NAMES, name))
  if known then
    local h = head(known)
    if h then return told(known, h) end
  end
  if pair ~= '' and state == 'in_flight' and first_of(pair) then state, due = 'queued', created end
  local h = {state = state, due = due, fence = '0', not_after = not_after, lane = lane, priority = priority, pair = pair,
    name = name, seq = string.format('%016d', redis.call('INCR', SEQ)), direct = '0', entry = ''}
  redis.call('HSET', ROWS, id, body)
  redis.call('SADD', LANES, lane)
  if name ~= '' then redis.call('HSET', NAMES, name, id) end
  enter(id, h, changed)
  return told(id, h)
end

local function change(id, fence, state, due, not_after, changed, body)
  local h = head(id)
  if not h then return false end
  if h.fence ~= fence then return told(id, h) end
  if body == '' then return 'same' end
  leave(id, h)
  h.state, h.due, h.not_after, h.fence = state, due, not_after, string.format('%d', tonumber(fence) + 1)
  redis.call('HSET', ROWS, id, body)
  enter(id, h, changed)
  return 'changed'
end

local function take(now, lease_end, limit, token)
  -- Asked again, because the answer was lost: the same rows. Else they would be in flight, and nobody would send them.
  local last = redis.call('GET', TAKEN)
  last = last and cjson.decode(last)
  if last and last[1] == token then
    local again = {}
    for n = 2, #last do
      local h = head(last[n])
      if h and h.state == 'in_flight' then again[#again + 1] = told(last[n], h) end
    end
    return again
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LATER, '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', LATER, id)
    local h = head(id)
    if h and h.state == 'queued' and h.entry == '' then
      schedule(id, h, now)
      save(id, h)
    end
  end
  local taken, ids = {}, {token}
  for priority = 9, 0, -1 do
    local stream = ready(priority)
    while #taken < tonumber(limit) do
      local entries = read(stream, tonumber(limit) - #taken)
      if #entries == 0 then break end
      for _, entry in ipairs(entries) do
        local id = entry[2] and entry[2][2]
        local h = id and head(id)
        if not h or h.state ~= 'queued' or h.entry ~= entry[1] then
          done(stream, entry[1])
        elseif tonumber(h.not_after) < tonumber(now) or blocked(id, h) then
          done(stream, entry[1])
          h.entry = ''
          save(id, h)
        else
          local changed = redis.call('ZSCORE', STATES.queued, id)
          redis.call('ZREM', STATES.queued, id)
          redis.call('ZADD', STATES.in_flight, changed or now, id)
          redis.call('ZREM', TIMED, id)
          if h.pair ~= '' then redis.call('HSET', FLYING, h.pair, id) end
          h.state, h.due, h.fence = 'in_flight', lease_end, string.format('%d', tonumber(h.fence) + 1)
          save(id, h)
          taken[#taken + 1] = told(id, h)
          ids[#ids + 1] = id
        end
      end
    end
  end
  if #taken > 0 then redis.call('SET', TAKEN, cjson.encode(ids), 'PX', 3600000) end
  return taken
end

local function next_due()
  for priority = 9, 0, -1 do
    local key = KEYS[ready(priority)]
    local length = redis.call('XLEN', key)
    if length > 0 then
      local pending = redis.pcall('XPENDING', key, GROUP)
      if pending.err or length > pending[1] then return '0' end
    end
  end
  return redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2] or false
end

local function claim(lease_ms, limit)
  local found = {}
  for stream = DIRECT, ready(9) do
    local claimed = redis.pcall('XAUTOCLAIM', KEYS[stream], GROUP, consumer, lease_ms, '0-0', 'COUNT', limit)
    for _, entry in ipairs(not claimed.err and claimed[2] or {}) do
      local id = entry and entry[2] and entry[2][2]
      local h = id and head(id)
      if h and h.state == 'in_flight' and h.entry == entry[1] then
        found[#found + 1] = told(id, h)
      elseif entry then
        done(stream, entry[1])
      end
    end
  end
  return found
end

local function timed(now, limit)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', TIMED, '-inf', now, 'LIMIT', 0, limit)) do
    local h = head(id)
    if h and (h.state == 'unknown' or h.state == 'queued') then
      found[#found + 1] = told(id, h)
    else
      redis.call('ZREM', TIMED, id)
    end
  end
  return found
end

local function postpone(when, ...)  -- what nobody can read, so that it does not stand before all others for ever
  for _, id in ipairs({...}) do redis.call('ZADD', TIMED, 'XX', when, id) end
  return #{...}
end

local function purge(changed_before, dead_before, limit)
  local gone = 0
  for _, state in ipairs(ORDER) do
    if state ~= 'queued' and state ~= 'in_flight' then
      local before = (state == 'dead' or state == 'unknown') and dead_before or changed_before
      local old = redis.call('ZRANGEBYSCORE', STATES[state], '-inf', '(' .. before, 'LIMIT', 0, tonumber(limit) - gone)
      for _, id in ipairs(old) do
        local h = head(id)
        if h and h.due == '' then
          if h.name ~= '' then redis.call('HDEL', NAMES, h.name) end
          redis.call('HDEL', ROWS, id)
          redis.call('HDEL', HEADS, id)
          redis.call('ZREM', STATES[state], id)
          gone = gone + 1
        end
      end
    end
  end
  return gone
end

local function listed(state, limit, before)
  local found = {}
  for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', STATES[state], '(' .. before, '-inf', 'LIMIT', 0, limit)) do
    local h = head(id)
    if h then found[#found + 1] = told(id, h) end
  end
  return found
end

local function one(id)
  local h = id and head(id)
  return h and told(id, h) or false
end

local function counts()
  local found = {}
  for n, state in ipairs(ORDER) do found[n] = redis.call('ZCARD', STATES[state]) end
  return found
end

local function quit()
  for stream = DIRECT, ready(9) do
    local mine = redis.pcall('XPENDING', KEYS[stream], GROUP, '-', '+', 1, consumer)
    -- A consumer that has something in flight stays: with it the group would forget what that is.
    if not mine.err and #mine == 0 then redis.pcall('XGROUP', 'DELCONSUMER', KEYS[stream], GROUP, consumer) end
  end
  redis.call('DEL', TAKEN)
  return 'gone'
end

local OPS = {
  add = add, change = change, take = take, next_due = next_due, claim = claim, timed = timed, purge = purge,
  postpone = postpone,
  rows = listed, get = one, find = function(name) return one(redis.call('HGET', NAMES, name)) end, counts = counts,
  lanes = function() return redis.call('SMEMBERS', LANES) end, quit = quit,
}
return OPS[op](unpack(ARGV, 3))
