-- A record as it is, with the server's time and what is left of its life.
-- KEYS[1] the record.  Answers {text or false, seconds, microseconds, milliseconds left}.
local text = redis.pcall('GET', KEYS[1])
if type(text) == 'table' then text = '\0' .. (text['err'] or '') end  -- another type: no record, but not nothing
local time = redis.pcall('TIME')
if time['err'] then time = {false, false} end
return {text, time[1], time[2], redis.call('PTTL', KEYS[1])}
