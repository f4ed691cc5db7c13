-- SHA-256 (FIPS 180-4) as 64 hexadecimal digits: Envoy's Lua has no hash of its own.

local band, bnot, bxor, ror, rshift, tobit, tohex = bit.band, bit.bnot, bit.bxor, bit.ror, bit.rshift, bit.tobit, bit.tohex

-- The first 32 bits of the fractional part of `root`.
local function fraction(root)
  return tobit(math.floor((root - math.floor(root)) * 2 ^ 32))
end

-- Of the first primes: square roots of 8 are where the hash begins, cube roots of 64 the constants of its rounds.
local BEGIN, ROUND = {}, {}
do
  local candidate = 2
  while #ROUND < 64 do
    local is_prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do
      is_prime = is_prime and candidate % divisor ~= 0
    end
    if is_prime then
      ROUND[#ROUND + 1] = fraction(candidate ^ (1 / 3))
      if #BEGIN < 8 then
        BEGIN[#BEGIN + 1] = fraction(math.sqrt(candidate))
      end
    end
    candidate = candidate + 1
  end
end

-- `message`, a bit, zeros, and its length in bits, in blocks of 64 bytes.
local function padded(message)
  local bits = #message * 8
  local zeros = string.rep("\0", (55 - #message) % 64)
  local length = string.char(0, 0, 0, 0, rshift(bits, 24), band(rshift(bits, 16), 255), band(rshift(bits, 8), 255), band(bits, 255))
  return message .. "\128" .. zeros .. length
end

-- The 64 words of the block that begins at `position`.
local function schedule(text, position)
  local words = {}
  for i = 1, 16 do
    local a, b, c, d = text:byte(position + 4 * i - 4, position + 4 * i - 1)
    words[i] = tobit(a * 2 ^ 24 + b * 2 ^ 16 + c * 2 ^ 8 + d)
  end
  for i = 17, 64 do
    local x, y = words[i - 15], words[i - 2]
    local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    words[i] = tobit(words[i - 16] + s0 + words[i - 7] + s1)
  end
  return words
end

-- The state after one block.
local function compressed(state, words)
  local a, b, c, d, e, f, g, h = unpack(state)
  for i = 1, 64 do
    local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
    local chosen = bxor(band(e, f), band(bnot(e), g))
    local t1 = h + s1 + chosen + ROUND[i] + words[i]
    local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
    local majority = bxor(band(a, b), band(a, c), band(b, c))
    h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + s0 + majority)
  end
  local after = { a, b, c, d, e, f, g, h }
  for i = 1, 8 do
    after[i] = tobit(after[i] + state[i])
  end
  return after
end

function sha256(message)
  local state, text = BEGIN, padded(message)
  for position = 1, #text, 64 do
    state = compressed(state, schedule(text, position))
  end
  local digits = {}
  for i = 1, 8 do
    digits[i] = tohex(state[i])
  end
  return table.concat(digits)
end
