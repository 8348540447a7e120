-- A record as it is, with the server's time and what is left of its life.
-- KEYS[1] the record.  Answers {text or false, seconds, microseconds, milliseconds left}.
local text = redis.pcall('GET', KEYS[1])
if type(text) == 'table' then
  if not string.find(text['err'], 'WRONGTYPE', 1, true) then return text end  -- refused: that says nothing of a record
  text = '\0' .. text['err']  -- another type: no record, but not nothing
end
local time = redis.pcall('TIME')
if time['err'] then time = {false, false} end
return {text, time[1], time[2], redis.call('PTTL', KEYS[1])}
