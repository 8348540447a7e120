-- How many calls of a fleet were bad of late: what each member has in its window, and the sum.
--
-- KEYS[1]  a hash: member -> "calls:bad:expires", and "=" -> "calls:bad:swept", the sum of all; times in milliseconds
-- ARGV     member, calls, bad, milliseconds that this counts, channel, time of the client (us)
-- Answers  {calls, bad} of the fleet
--
-- The sum changes by the difference to what this member said last: saying it twice counts once. It is made anew from
-- the parts now and then, when what lapsed must leave it.
local member, calls, bad, lasts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local time = redis.pcall('TIME')
local now
if time['err'] then now = math.floor(tonumber(ARGV[6]) / 1000)
else now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) end

local function parts(text)
  if type(text) ~= 'string' or #text > 60 then return nil end
  local a, b, c = string.match(text, '^(%d+):(%d+):(%d+)$')
  return tonumber(a), tonumber(b), tonumber(c)
end

local said = redis.pcall('HGET', KEYS[1], '=')
if type(said) == 'table' and said['err'] then
  if not string.find(said['err'], 'WRONGTYPE', 1, true) then return said end
  redis.call('DEL', KEYS[1])
  said = false
end
local all_calls, all_bad, swept = parts(said)
local old_calls, old_bad, old_ends = parts(redis.call('HGET', KEYS[1], member))
if swept and swept <= now and now - swept < lasts then
  if not old_ends then old_calls, old_bad = 0, 0 end
  all_calls, all_bad = all_calls + calls - old_calls, all_bad + bad - old_bad
else
  swept, all_calls, all_bad = now, calls, bad
  local found = redis.call('HGETALL', KEYS[1])
  for at = 1, #found, 2 do
    local c, b, ends = parts(found[at + 1])
    if not ends or ends <= now or ends > now + 86400000 then
      redis.call('HDEL', KEYS[1], found[at])
    elseif found[at] ~= member and found[at] ~= '=' then
      all_calls, all_bad = all_calls + c, all_bad + b
    end
  end
end
all_calls, all_bad = math.max(0, all_calls), math.max(0, all_bad)
local format = '%.0f:%.0f:%.0f'
redis.call('HSET', KEYS[1], member, string.format(format, calls, bad, now + lasts))
redis.call('HSET', KEYS[1], '=', string.format(format, all_calls, all_bad, swept))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * lasts))
if bad > 0 and (not old_bad or old_bad == 0) then
  redis.call('PUBLISH', ARGV[5], 'window')  -- the others tell theirs, too
end
return {all_calls, all_bad}
