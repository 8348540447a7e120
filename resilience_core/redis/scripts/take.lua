-- A fleet's rate limit: GCRA (ITU-T I.371) on the server's time, the same law as `_machines/bucket.py`.
--
-- KEYS[1]  "anchor:tat:last:closed": an anchor in whole seconds, and nanoseconds from there. Doubles hold them exactly.
-- ARGV     interval (ns), burst, longest wait (ns), askers, extra, returned, close for (ns), time of the client (us),
--          mark of the last reservation and how many up to it are given back, or '' and 0
-- Answers  {askers served, extra permits, ns until the next one, mark of the last reservation, wait of each asker (ns) ...}
--
-- Askers get a permit each, in order, perhaps one to wait for; extra ones are those at hand after that. Returned ones
-- were taken and not used. A reservation can be given back while nobody has reserved after it: else the next one would
-- come at the same time as the last.
local interval, burst, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local askers, extra, returned = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local close = tonumber(ARGV[7])

local time = redis.pcall('TIME')
local seconds, micros
if time['err'] then  -- some services refuse TIME
  seconds, micros = math.floor(tonumber(ARGV[8]) / 1000000), tonumber(ARGV[8]) % 1000000
else
  seconds, micros = tonumber(time[1]), tonumber(time[2])
end

local anchor, tat, last, closed = seconds, nil, nil, nil
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'table' and not string.find(found['err'], 'WRONGTYPE', 1, true) then
  return found  -- refused: that is not the same as a limit at rest
end
if type(found) == 'string' then
  local a, t, l, c = string.match(found, '^(%d+):(-?%d+):(-?%d+):(-?%d+)$')
  if a and #found < 90 then
    anchor, tat, last, closed = tonumber(a), tonumber(t), tonumber(l), tonumber(c)
    if math.abs(seconds - anchor) > 1000000 then  -- too far away for exact nanoseconds
      local shift = (seconds - anchor) * 1000000000
      anchor, tat, last, closed = seconds, tat - shift, last - shift, closed - shift
    end
  end
end
local now = (seconds - anchor) * 1000000000 + micros * 1000
if tat == nil then
  tat, last, closed, returned = now, now, now, 0  -- what was lost cannot be given back
elseif now < last - 1000000000 then  -- the server's clock was set back: what is owed stays owed, for no longer
  tat, closed = tat - (last - now), closed - (last - now)
elseif now < last then
  now = last
end
local window = burst * interval
tat = math.min(tat, now + window + most)  -- no value, however it came there, closes the limit for longer
closed = math.min(closed, now + 86400000000000)

local function mark() return string.format('%.0f:%.0f', anchor, tat) end
if ARGV[9] ~= '' and ARGV[9] == mark() then tat = tat - interval * tonumber(ARGV[10]) end
tat = tat - returned * interval
if close > 0 then closed = math.max(closed, now + close) end

local tolerance = interval * (burst - 1)
local waits = {}
for asker = 1, askers do
  local turn = math.max(tat, now)
  local wait = math.max(0, turn - tolerance - now, closed - now)
  if wait > most then break end
  tat = turn + interval
  waits[asker] = wait
end
local given = 0
if #waits == askers and closed <= now then
  local turn = math.max(tat, now)
  given = math.max(0, math.min(extra, math.floor((now + tolerance - turn) / interval) + 1))
  tat = turn + given * interval
end
local soonest = math.max(0, math.max(tat, now) - tolerance - now, closed - now)

local text = string.format('%.0f:%.0f:%.0f:%.0f', anchor, tat, now, closed)
local lives = math.max(1000, math.ceil((2 * window + most) / 1000000), math.ceil((closed - now) / 1000000))
redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', lives))
return {#waits, given, soonest, mark(), unpack(waits)}
