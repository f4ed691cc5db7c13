-- The guard's first look, at a call's headers, before a byte of its body has been read. The process behind it
-- (serving/door/guard) looks into the messages.

local CALLS = "^/inference%.GRPCInferenceService/(%u%w+)$"
local OPEN = {
  ServerLive = true, ServerReady = true, ServerMetadata = true,
  ModelReady = true, ModelMetadata = true, ModelConfig = true, ModelStatistics = true,
  ModelInfer = true, ModelStreamInfer = true,
}
local WITH_CONTROL_KEY = { RepositoryIndex = true, RepositoryModelLoad = true, RepositoryModelUnload = true }
local HEALTH = { ["/grpc.health.v1.Health/Check"] = true }
local OF_SHARED_MEMORY = { "%S*shm_region%S*", "/dev/shm/%S*", "%S*triton%-" .. ("%x"):rep(12) .. "%S*" }
local UNIMPLEMENTED, PERMISSION_DENIED = "12", "7"

local function refuse(handle, status, message)
  handle:respond({
    [":status"] = "200", ["content-type"] = "application/grpc", ["grpc-status"] = status, ["grpc-message"] = message,
  }, nil)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local kind = headers:get("content-type") or ""
  if kind ~= "application/grpc" and kind ~= "application/grpc+proto" then
    return handle:respond({ [":status"] = "415", ["content-type"] = "application/json" },
      '{"error": {"message": "this port takes gRPC and gRPC-Web; HTTP has a port of its own"}}')
  end
  local encoding = headers:get("grpc-encoding")
  if headers:getNumValues("grpc-encoding") > 1 or (encoding and encoding ~= "identity") or headers:get("content-encoding") then
    return refuse(handle, UNIMPLEMENTED, "compressed messages are not accepted here; accepted: grpc-encoding identity")
  end
  local path = headers:get(":path")
  local call = path:match(CALLS)
  if not (HEALTH[path] or OPEN[call] or WITH_CONTROL_KEY[call]) then
    if call then
      return refuse(handle, PERMISSION_DENIED, call .. " is closed to everybody; no key opens it")
    end
    return refuse(handle, UNIMPLEMENTED, "no such call; accepted: those of inference.GRPCInferenceService")
  end
  headers:remove("triton_grpc_error")
end

-- A status without an answer before it; the guard looks at those that come after one.
function envoy_on_response(handle)
  local headers = handle:headers()
  local message = headers:get("grpc-message")
  if message then
    for _, name in ipairs(OF_SHARED_MEMORY) do
      message = message:gsub(name, "(a name)")
    end
    headers:replace("grpc-message", message)
  end
end
