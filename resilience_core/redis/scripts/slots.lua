-- A fleet's slots: each member leases some, and those of a member that does not renew them come back.
--
-- KEYS[1]  a hash: member (one bulkhead of a process) -> "token:slots:expires", expires in milliseconds of the server's time
-- ARGV     member, token, slots wanted in all, slots of the fleet, milliseconds of the lease, channel, time of the
--          client (us)
-- Answers  {slots leased now, slots free after that, slots held before or -1 if there was no such lease}
--
-- The token names one lease: what a member says of a lease that has lapsed meanwhile takes nothing from others.
local member, token = ARGV[1], ARGV[2]
local want, limit, lease = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local time = redis.pcall('TIME')
local now
if time['err'] then now = math.floor(tonumber(ARGV[7]) / 1000)
else now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) end

local found = redis.pcall('HGETALL', KEYS[1])
if found['err'] then
  if not string.find(found['err'], 'WRONGTYPE', 1, true) then return found end  -- refused: others may have leases
  redis.call('DEL', KEYS[1])
  found = {}
end
local others, mine = 0, -1
for at = 1, #found, 2 do
  local theirs, slots, expires = string.match(found[at + 1], '^(%x+):(%d+):(%d+)$')
  -- No longer than two leases: else a clock that is set back, or a poisoned value, would hold slots of nobody.
  local good = theirs and #found[at + 1] < 60 and tonumber(expires) > now and tonumber(expires) <= now + 2 * lease
  if good and found[at] ~= member then
    others = others + tonumber(slots)
  elseif good and theirs == token then
    mine = tonumber(slots)
  else
    redis.call('HDEL', KEYS[1], found[at])
  end
end

local leased = math.max(0, math.min(want, limit - others))
if leased > 0 then
  redis.call('HSET', KEYS[1], member, string.format('%s:%.0f:%.0f', token, leased, now + lease))
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * lease))
else
  redis.call('HDEL', KEYS[1], member)
end
if leased < want then
  redis.call('PUBLISH', ARGV[6], 'wanted')
end
return {leased, math.max(0, limit - others - leased), mine}
