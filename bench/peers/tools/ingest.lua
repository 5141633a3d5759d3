-- Creates of one signal each: a title of its own, and a payload that makes the document some 400 bytes.
-- Arguments: API key, length of the payload's text.
local head, before, after
local n = 0

function init(args)
    local pad = string.rep('x', tonumber(args[2]))
    before = '{"title":"peers '
    after = '","priority":"high","payload":{"note":"' .. pad .. '"}}'
    head = 'POST /v1/signals HTTP/1.1\r\nHost: nexus\r\nAuthorization: Bearer ' .. args[1] ..
        '\r\nContent-Type: application/json\r\nContent-Length: ' .. (#before + 8 + #after) .. '\r\n\r\n'
end

function request()
    n = n + 1
    return head .. before .. string.format('%08d', n) .. after
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format('peers %d %d %d %d %.0f %.0f %d\n', summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99),
        summary.bytes))
end
