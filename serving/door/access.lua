-- Who calls: finds the caller's key, says who he is to what lies behind, and refuses whoever may not.
--
-- Keys are compared by their SHA-256: how long a look-up takes says nothing about a key. What is known about each, and
-- what else is told here, is made by serving/door/access.py and changes without a restart. A fault of this script lets a
-- request pass, as Envoy has it; the filter behind it refuses what has not been `admitted`.

local STATE = "reverie.access"
local KEY_HEADERS = { "x-api-key", "reverie-api-key", "triton-grpc-protocol-reverie-api-key" }
local FROM_THE_DOOR = { "reverie-client", "reverie-limits" }
local ACCEPTED = "accepted: one key, as 'Authorization: Bearer KEY' or 'x-api-key: KEY' (REVERIE_API_KEY of reverie-client)"
local LONGEST_KEY, LONGEST_NAME = 512, 128
local LONGEST_TOKEN = 8192

local REFUSALS = {
  unauthenticated = { http = "401", grpc = "16", type = "authentication_error", code = "invalid_api_key" },
  denied = { http = "403", grpc = "7", type = "permission_error", code = "permission_denied" },
  exhausted = { http = "429", grpc = "8", type = "rate_limit_error", code = "rate_limit_exceeded" },
  too_large = { http = "413", grpc = "8", type = "invalid_request_error", code = "request_too_large" },
  no_length = { http = "411", grpc = "3", type = "invalid_request_error", code = "length_required" },
}

-- What anybody may ask: whether the server is well, and the description of its API.
local OPEN = {
  ["/inference.GRPCInferenceService/ServerLive"] = true, ["/inference.GRPCInferenceService/ServerReady"] = true,
  ["/inference.GRPCInferenceService/ModelReady"] = true, ["/grpc.health.v1.Health/Check"] = true,
  ["/v2/health/live"] = true, ["/v2/health/ready"] = true, ["/healthz"] = true, ["/readyz"] = true,
  ["/docs"] = true, ["/openapi.json"] = true,
}
local ADMIN = { "^/inference%.GRPCInferenceService/Repository", "^/v2/repository" }
-- The model that a path stands for.
local MODEL_OF_PATH = {
  ["/v1/completions"] = "generate", ["/v1/stylize"] = "stylize", ["/v1/styles"] = "stylize", ["/v1/dream"] = "deepdream",
  ["/v1/transfer"] = "style_transfer", ["/v1/score"] = "score",
}
-- Where a request's body names the model, or none is called: there the guard looks, which every call of a model passes.
local MODEL_ELSEWHERE = { "^/inference%.GRPCInferenceService/%u%w+$", "^/v1/images/edits$", "^/v1/models$", "^/v1/models/[^/]+$" }
local WITHOUT_BODY = { GET = true, HEAD = true, OPTIONS = true, DELETE = true }

-- Printable ASCII without what would end a string of JSON.
local function plain(text)
  return (text:gsub("[^ !#-Z%[%]^_`a-~]", "?"))
end

local function is_grpc(headers)
  return (headers:get("content-type") or ""):sub(1, 16) == "application/grpc"
end

local function as_json(refusal, message)
  return '{"error": {"message": "' .. plain(message) .. '", "type": "' .. refusal.type .. '", "param": null, "code": "' .. refusal.code .. '"}}'
end

local function as_grpc_message(message)
  return (plain(message):gsub("%%", "%%25"))
end

local function refuse(handle, kind, message)
  local refusal = REFUSALS[kind]
  if is_grpc(handle:headers()) then
    return handle:respond({
      [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = refusal.grpc,
      ["grpc-message"] = as_grpc_message(message),
    }, nil)
  end
  local headers = { [":status"] = refusal.http, ["content-type"] = "application/json" }
  if kind == "unauthenticated" then
    headers["www-authenticate"] = "Bearer"
  end
  return handle:respond(headers, as_json(refusal, message))
end

-- All keys and tokens that a request shows; nil, and why, where one is no such thing.
local function shown(headers)
  local found = {}
  for _, name in ipairs(KEY_HEADERS) do
    for i = 0, headers:getNumValues(name) - 1 do
      found[#found + 1] = headers:getAtIndex(name, i)
    end
  end
  for i = 0, headers:getNumValues("authorization") - 1 do
    local scheme, key = headers:getAtIndex("authorization", i):match("^(%a+) +([!-~]+)$")
    if not scheme or scheme:lower() ~= "bearer" then
      return nil, "the header Authorization holds no single key; " .. ACCEPTED
    end
    found[#found + 1] = key
  end
  return found
end

local function is_token(key)
  return key:match("^[%w_-]+%.[%w_-]+%.[%w_-]+$") ~= nil
end

-- Whom a token names, whose signature, issuer, audience and times jwt_authn has looked at.
local function of_token(handle)
  local verdict = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.jwt_authn") or {}
  local payload = verdict.payload
  if not payload then
    local reason = verdict.status and verdict.status.message or "it was not looked at"
    return nil, "the token is not accepted (" .. reason .. "); accepted: a token of this server's issuer, signed and in force"
  end
  local name = payload.sub
  if type(name) ~= "string" or #name > LONGEST_NAME or not name:match("^[!-~]+$") then
    return nil, "the token's sub is no name; accepted: 1 to " .. LONGEST_NAME .. " printable characters of ASCII without spaces"
  end
  return { name = name, limits = "{}" }
end

-- The caller, or nil and why there is none.
local function identified(handle, context)
  local found, wrong = shown(handle:headers())
  if not found then
    return nil, wrong
  end
  local key = found[1]
  if #found ~= 1 then
    return nil, (#found == 0 and "there is no key; " or #found .. " keys; ") .. ACCEPTED
  end
  if context:get("tokens") and is_token(key) and #key <= LONGEST_TOKEN then
    return of_token(handle)
  end
  if #key == 0 or #key > LONGEST_KEY then
    return nil, "the key has " .. #key .. " characters; " .. ACCEPTED
  end
  local caller = context:get("key:" .. sha256(key))
  if not caller then
    return nil, "nobody has this key: it may have been revoked or replaced; " .. ACCEPTED
  end
  return caller
end

-- The first 64 bits of an IPv6 address, which are those of one subscriber.
local function network_of(address)
  local front, back = address:match("^(.-)::(.*)$")
  local groups = {}
  for group in (front or address):gmatch("%x+") do
    groups[#groups + 1] = group
  end
  if front then
    local _, after = back:gsub("%x+", "")
    for _ = #groups + 1, 8 - after do
      groups[#groups + 1] = "0"
    end
    for group in back:gmatch("%x+") do
      groups[#groups + 1] = group
    end
  end
  return table.concat(groups, ":", 1, 4) .. "::"
end

-- Where a request is from; a program of this machine, a proxy for one, may say for whom it calls.
local function anonymous(handle)
  local address = handle:streamInfo():downstreamRemoteAddress()
  local host = address:match("^%[(.*)%]:%d+$") or address:match("^(.*):%d+$") or address
  host = host:gsub("^::ffff:(%d+%.%d+%.%d+%.%d+)$", "%1")
  local headers = handle:headers()
  local named = headers:get("reverie-client")
  if named and (host:match("^127%.") or host == "::1") and #named <= LONGEST_NAME and named:match("^[ -~]+$") then
    return { name = named, limits = "{}" }
  end
  return { name = (host:find(":") and host ~= "::1") and network_of(host) or host, limits = "{}" }
end

local function may_call(caller, model)
  for _, allowed in ipairs(caller.models or { model }) do
    if allowed == model then
      return true
    end
  end
  return false
end

local function matches(path, patterns)
  for _, pattern in ipairs(patterns) do
    if path:match(pattern) then
      return true
    end
  end
  return false
end

-- The path as those behind the door understand it.
local function path_of(headers)
  local path = (headers:get(":path") or ""):match("^[^?#]*")
  path = path:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  return #path > 1 and path:gsub("/+$", "") or path
end

-- Why a caller with some models only may not call what a path stands for; nil if he may.
local function wrong_model(caller, path)
  local model = MODEL_OF_PATH[path] or path:match("^/v2/models/([^/]+)")
  if not caller.models or (model and may_call(caller, model)) or (not model and matches(path, MODEL_ELSEWHERE)) then
    return nil
  end
  return "the key " .. caller.name .. " may not call " .. (model or path):sub(1, 80) .. "; accepted: the models " ..
    table.concat(caller.models, ", ")
end

-- The kind of refusal and the message where a request is larger than its caller's may be, or does not say.
local function wrong_size(headers, caller)
  local length = tonumber(headers:get("content-length") or "")
  if not caller.body_mib or is_grpc(headers) or WITHOUT_BODY[headers:get(":method")] then
    return nil  -- The guard measures gRPC's messages.
  end
  if not length or headers:get("transfer-encoding") then
    return "no_length", "there is no Content-Length; accepted: requests that say their length, with the key " .. caller.name
  end
  if length > caller.body_mib * 2 ^ 20 then
    return "too_large", length .. " bytes; accepted: at most " .. caller.body_mib .. " MiB with the key " .. caller.name
  end
end

-- The kind of refusal and the message, or nil if the caller may do what he asks for.
local function forbidden(headers, caller, path)
  if matches(path, ADMIN) and not caller.admin then
    return "denied", "the key " .. caller.name .. " may not control models; accepted: a key made with --admin"
  end
  local message = wrong_model(caller, path)
  if message then
    return "denied", message
  end
  return wrong_size(headers, caller)
end

-- What the request says of itself is taken away, and what the door knows is put there.
local function introduce(headers, caller, has_keys)
  for _, name in ipairs(FROM_THE_DOOR) do
    headers:remove(name)
  end
  if has_keys then
    headers:remove("authorization")
    for _, name in ipairs(KEY_HEADERS) do
      headers:remove(name)
    end
  end
  if caller then
    headers:add("reverie-client", caller.name)
    headers:add("reverie-limits", caller.limits)
  end
end

function envoy_on_request(handle)
  local headers, context = handle:headers(), handle:filterContext()
  local path = path_of(headers)
  local mode = context:get("mode")
  local caller, why
  if mode == "anonymous" then
    caller = anonymous(handle)
  elseif not OPEN[path] then
    caller, why = identified(handle, context)
    if not caller then
      return refuse(handle, "unauthenticated", why)
    end
    local kind, message = forbidden(headers, caller, path)
    if kind then
      return refuse(handle, kind, message)
    end
  end
  introduce(headers, caller, mode ~= "anonymous")
  local state = handle:streamInfo():dynamicMetadata()
  state:set(STATE, "admitted", "yes")
  if caller then
    state:set(STATE, "caller", caller.name)
    state:set(STATE, "quota", caller.quota or "")
  end
end

-- The limiter says no in its own words; here they become ours.
function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get("reverie-refused") ~= "quota" then
    return
  end
  headers:remove("reverie-refused")
  local state = handle:streamInfo():dynamicMetadata():get(STATE)
  local message = "the key " .. state.caller .. " has used up its quota of " .. state.quota .. "; try again after " ..
    (headers:get("retry-after") or "1") .. " s"
  if headers:get("grpc-status") then
    headers:replace("grpc-message", as_grpc_message(message))
    return
  end
  local text = as_json(REFUSALS.exhausted, message)
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(#text))
  handle:body():setBytes(text)
end
