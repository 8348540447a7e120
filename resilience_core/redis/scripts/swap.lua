-- Replaces a record if it is still the expected one, and tells everybody.
-- KEYS[1] the record.  ARGV: expected text ('' for none), new text, milliseconds to live, channel.
-- Answers {1 or 0, the text that it was when that is another one, seconds, microseconds}.
local text = redis.pcall('GET', KEYS[1])
if type(text) == 'table' then
  if not string.find(text['err'], 'WRONGTYPE', 1, true) then return text end
  text = '\0' .. text['err']
end
local time = redis.pcall('TIME')
if time['err'] then time = {false, false} end
if (text or '') ~= ARGV[1] then
  return {0, text, time[1], time[2]}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[2] ~= ARGV[1] then
  redis.call('PUBLISH', ARGV[4], ARGV[2])
end
return {1, false, time[1], time[2]}
