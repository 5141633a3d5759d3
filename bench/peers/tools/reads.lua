-- Reads, uniform over the ids in a file, one a line.
-- Arguments: the file, what stands in the path before and after the id, an Authorization header's value.
local requests = {}
local count = 0

function init(args)
    math.randomseed(os.time())
    local rest = args[3] .. ' HTTP/1.1\r\nHost: nexus\r\nAuthorization: ' .. args[4] .. '\r\n\r\n'
    for id in io.lines(args[1]) do
        count = count + 1
        requests[count] = 'GET ' .. args[2] .. id .. rest
    end
end

function request()
    return requests[math.random(count)]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format('peers %d %d %d %d %.0f %.0f %d\n', summary.requests, summary.duration, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99),
        summary.bytes))
end
