-- Health over HTTP: asked of the guard in a gRPC call that the door writes itself, so that nothing of a caller's request
-- goes further. The rest goes on to the gateway.

local ASKED = { ["/v2/health/live"] = "ServerLive", ["/v2/health/ready"] = "ServerReady" }
local EMPTY_MESSAGE, YES = "\0\0\0\0\0", "\8\1"
local PATIENCE_MS = 5000

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get("content-encoding") then
    return handle:respond({ [":status"] = "415", ["content-type"] = "application/json" },
      '{"error": {"message": "compressed bodies are not accepted; send them as they are"}}')
  end
  local call = ASKED[headers:get(":path")]
  local method = headers:get(":method")
  if not call or (method ~= "GET" and method ~= "HEAD") then
    return
  end
  local _, body = handle:httpCall("guard", {
    [":method"] = "POST", [":path"] = "/inference.GRPCInferenceService/" .. call, [":authority"] = "guard",
    ["content-type"] = "application/grpc", ["te"] = "trailers",
  }, EMPTY_MESSAGE, PATIENCE_MS)
  local is_well = body ~= nil and body:sub(6, 7) == YES
  handle:respond({ [":status"] = is_well and "200" or "503" }, nil)
end
