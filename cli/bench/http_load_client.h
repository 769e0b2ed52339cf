// Requests of a benchmark to OpenAI's completions endpoint, streamed.
#ifndef CONCLAVE_CLI_BENCH_HTTP_LOAD_CLIENT_H_
#define CONCLAVE_CLI_BENCH_HTTP_LOAD_CLIENT_H_

#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/bench/load_client.h"
#include "cli/cluster_access.h"

namespace conclave {

// To the server at `address` (FindHttpEndpoint, whose errors it has). Works on the thread that runs `context`, and
// calls `done` there; connections are kept for later requests. `context` must outlive it.
absl::StatusOr<std::unique_ptr<LoadClient>> NewHttpLoadClient(const std::string& address, const ClusterAccess& access,
                                                              boost::asio::io_context& context);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_HTTP_LOAD_CLIENT_H_
