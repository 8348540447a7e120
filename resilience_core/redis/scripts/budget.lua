-- A fleet's budget: tokens that are earned, spent, and with time refilled or forgotten.
--
-- KEYS[1]  "balance:last", last in microseconds of the server's time
-- ARGV     capacity, tokens refilled per second, seconds in which a balance decays (0: never), balance at first,
--          tokens earned (or, below 0, lost), tokens wanted, the least that is of use, milliseconds to live,
--          time of the client (us)
-- Answers  {tokens given, balance after that}, as text: an integer would lose the fraction
local capacity, refill, decay = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local earned, wanted, least = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local time = redis.pcall('TIME')
local now
if time['err'] then now = tonumber(ARGV[9]) else now = tonumber(time[1]) * 1000000 + tonumber(time[2]) end

local balance, last = tonumber(ARGV[4]), now
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'table' and not string.find(found['err'], 'WRONGTYPE', 1, true) then
  return found  -- refused: that is not the same as a full budget
end
if type(found) == 'string' and #found < 60 then
  local b, l = string.match(found, '^(%d+%.%d+):(%d+)$')
  if b then balance, last = tonumber(b), tonumber(l) end
end
local passed = math.max(0, now - last) / 1000000
if decay > 0 then
  local kept = math.exp(-passed / decay)
  balance = balance * kept + refill * decay * (1 - kept)
else
  balance = balance + refill * passed
end
balance = math.min(capacity, math.max(0, math.min(capacity, balance) + earned))

local given = math.min(wanted, math.floor(balance / least + 0.000000001) * least)
balance = balance - given
redis.call('SET', KEYS[1], string.format('%.6f:%.0f', balance, now), 'PX', ARGV[8])
return {string.format('%.6f', given), string.format('%.6f', balance)}
