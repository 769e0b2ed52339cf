// Who carries the requests of a benchmark to a gateway, without waiting for any of them.
#ifndef CONCLAVE_CLI_BENCH_LOAD_CLIENT_H_
#define CONCLAVE_CLI_BENCH_LOAD_CLIENT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cli/bench/request_record.h"
#include "cli/bench/workload.h"

namespace conclave {

// What a benchmark has to know of the model.
struct ServedModel {
  std::string name;
  std::vector<int32_t> ids;  // of an ordinary text
};

// How each request is made.
struct RequestOptions {
  std::string model;         // empty: the one that is served
  bool stop_at_eos = false;  // else answers go on to their full length
  absl::Duration timeout = absl::Minutes(10);
};

// Used by one thread. It must outlive its requests.
class LoadClient {
 public:
  virtual ~LoadClient() = default;
  // Asks which model is served and how it cuts `text` into tokens. Blocks, for at most ten seconds.
  virtual absl::StatusOr<ServedModel> Discover(absl::string_view text) = 0;
  virtual void SetOptions(const RequestOptions& options) = 0;
  // Sends a request and notes in `record` what comes of it; then calls `done`, on any thread. `record` must live until
  // then; its `intended` is set already.
  virtual void Start(const WorkItem& item, RequestRecord* record, std::function<void()> done) = 0;
  // Ends all requests that run; each `done` is called still.
  virtual void CancelAll() = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_LOAD_CLIENT_H_
