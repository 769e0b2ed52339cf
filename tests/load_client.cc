// Load on a gateway over gRPC, for tests that Python's standard library cannot make: prints one JSON object of counts.
//   load_client --gateway HOST:PORT --seconds S --workers N [--seed X]
// Requests of every kind, of which a third is cancelled or loses its connection halfway; who is refused waits as long
// as the refusal says. For requests of one kind there is `conclave bench`.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "moe/daemon/flags.h"

namespace conclave {
namespace {

struct Options {
  std::string gateway;
  int workers = 8, seconds = 10, seed = 1;
};

// What came of all requests.
struct Totals {
  absl::Mutex mutex;
  std::map<std::string, int> codes;
  std::map<std::string, int> messages;  // of statuses that are neither OK, CANCELLED nor a refusal
  int without_retry = 0;                // refusals that do not say when to try again
};

std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own, that can be lost
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

absl::Duration RetryDelay(const grpc::Status& status) {
  google::rpc::Status rich;
  google::rpc::RetryInfo retry;
  if (!rich.ParseFromString(status.error_details())) return absl::ZeroDuration();
  for (const auto& detail : rich.details()) detail.UnpackTo(&retry);
  return absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
}

class Worker {
 public:
  Worker(const Options& options, int index, Totals& totals)
      : options_(options), totals_(totals), random_(static_cast<unsigned>(options.seed * 1000 + index)) {}

  void Run(absl::Time end) {
    channel_ = OwnChannel(options_.gateway);
    while (absl::Now() < end) {
      const absl::Duration wait = Once();
      if (wait > absl::ZeroDuration()) absl::SleepFor(std::min(wait, end - absl::Now()));
    }
  }

 private:
  unsigned Below(unsigned limit) { return static_cast<unsigned>(random_()) % limit; }

  v1::GenerateRequest RandomRequest() {
    static const char* const kPrompts[] = {"Once upon a time", "def quicksort(", "The theorem of", "1 + 1 =", "什么是"};
    v1::GenerateRequest request;
    std::string text = kPrompts[Below(5)];
    for (unsigned i = Below(4) == 0 ? 200 : 0; i > 0; --i) absl::StrAppend(&text, " word", i % 7);
    request.set_text(text);
    request.set_max_tokens(1 + static_cast<int>(Below(60)));
    request.mutable_sampling()->set_temperature(Below(2) == 0 ? 0.0f : 0.9f);
    if (Below(4) == 0) request.set_n(1 + static_cast<int>(Below(4)));
    if (Below(4) == 0) request.add_stop("the");
    if (Below(6) == 0) request.set_logprobs(static_cast<int>(Below(5)));
    if (Below(8) == 0) request.set_echo(true);
    if (Below(8) == 0) request.mutable_sampling()->set_repetition_penalty(1.2f);
    if (Below(20) == 0) request.set_max_tokens(-1);  // refused
    return request;
  }

  // Returns how long to wait before the next.
  absl::Duration Once() {
    const v1::GenerateRequest request = RandomRequest();
    const unsigned fate = Below(6);  // 0: cancelled, 1: its connection is lost, else read to the end
    unsigned messages_left = Below(20);
    const auto stub = v1::InferenceService::NewStub(channel_);
    grpc::ClientContext context;
    auto stream = stub->Generate(&context, request);
    for (v1::GenerateResponse message; stream->Read(&message);) {
      if (fate > 1 || messages_left-- > 0) continue;
      context.TryCancel();
      if (fate == 1) channel_ = OwnChannel(options_.gateway);
    }
    const grpc::Status status = stream->Finish();
    absl::MutexLock lock(&totals_.mutex);
    ++totals_.codes[absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code()))];
    if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      const absl::Duration delay = RetryDelay(status);
      if (delay == absl::ZeroDuration()) ++totals_.without_retry;
      return std::max(delay, absl::Milliseconds(10));
    }
    if (!status.ok() && status.error_code() != grpc::StatusCode::CANCELLED &&
        status.error_code() != grpc::StatusCode::INVALID_ARGUMENT) {
      ++totals_.messages[status.error_message()];
    }
    return absl::ZeroDuration();
  }

  const Options& options_;
  Totals& totals_;
  std::mt19937 random_;
  std::shared_ptr<grpc::Channel> channel_;
};

int Main(int argc, char** argv) {
  Options options;
  Flags flags("load_client", "Loads a gateway.");
  flags.Add("gateway", &options.gateway, "host:port");
  flags.Add("workers", &options.workers, "requests at once");
  flags.Add("seconds", &options.seconds, "how long");
  flags.Add("seed", &options.seed, "of what is random");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return ExitWith("load_client", parsed.status(), 2);
  if (!*parsed) return 0;
  Totals totals;
  const absl::Time end = absl::Now() + absl::Seconds(options.seconds);
  std::vector<std::thread> threads;
  for (int i = 0; i < options.workers; ++i) {
    threads.emplace_back([&options, &totals, i, end] { Worker(options, i, totals).Run(end); });
  }
  for (std::thread& thread : threads) thread.join();
  nlohmann::json json = {{"codes", totals.codes},
                         {"messages", totals.messages},
                         {"refusals_without_retry", totals.without_retry}};
  std::cout << json.dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
