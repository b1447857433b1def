-- A lease on one key: KEYS[1]; ARGV: operation, owner, time to live and time to remember in ms, flight.
-- The same rules as ops.lease_step, in the server's time. Answers {mine, flight}.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local op, owner, ttl, keep, flight = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local held = redis.call('HMGET', KEYS[1], 'owner', 'flight', 'until')
local is_held, mine = held[1] ~= false, held[1] == owner
if op == 'Release' then
  if mine then redis.call('DEL', KEYS[1]) end
  return {0, ''}
end
local takes
if op == 'Beat' then
  takes = mine
elseif not is_held then
  takes = flight == ''
else
  local left = (tonumber(held[3]) or 0) - now
  takes = (left <= 0 or left > 60000) and (flight == '' or flight == held[2])
end
if not takes then return {0, held[2] or ''} end
local name = held[2] or owner
redis.call('HSET', KEYS[1], 'owner', owner, 'flight', name, 'until', now + ttl)
redis.call('PEXPIRE', KEYS[1], keep)
return {1, name}
