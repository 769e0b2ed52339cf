// Streams from a gateway at once, for tests that disturb a cluster meanwhile: prints "begun" when each has its first
// tokens, and at the end one JSON array with an object for each stream: ids, text, logits_hash, error, and the longest
// gap between two messages in milliseconds.
//   stream_client --gateway HOST:PORT --tokens N --prompt TEXT --prompt TEXT ...
// Every second stream is sampled, by a seed of its own; the others are greedy.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "moe/daemon/flags.h"

namespace conclave {
namespace {

struct Options {
  std::string gateway;
  std::vector<std::string> prompts;
  int tokens = 96;
  int seconds_max = 120;
};

struct Answer {
  std::vector<int> ids;
  std::string text, logits_hash, error;
  absl::Duration longest_gap;
};

// Says when all streams have begun, or ended.
class Begun {
 public:
  explicit Begun(size_t streams) : missing_(streams) {}
  void Tell() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (--missing_ == 0) std::cout << "begun" << std::endl;
  }

 private:
  std::mutex mutex_;
  size_t missing_;  // guarded by mutex_
};

v1::GenerateRequest RequestOf(const Options& options, size_t number) {
  v1::GenerateRequest request;
  request.set_text(options.prompts[number]);
  request.set_max_tokens(options.tokens);
  request.set_ignore_eos(true);
  request.set_hash_logits(true);
  request.mutable_sampling()->set_temperature(number % 2 == 0 ? 0.0f : 0.9f);
  request.mutable_sampling()->set_seed(number);
  return request;
}

Answer Read(const Options& options, v1::InferenceService::Stub& stub, size_t number, Begun& begun) {
  Answer answer;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(options.seconds_max));
  const auto stream = stub.Generate(&context, RequestOf(options, number));
  absl::Time last = absl::InfiniteFuture();
  for (v1::GenerateResponse message; stream->Read(&message);) {
    answer.text += message.text();
    if (!message.logits_hash().empty()) answer.logits_hash = message.logits_hash();
    if (message.ids().empty()) continue;
    const absl::Time now = absl::Now();
    if (answer.ids.empty()) begun.Tell();
    answer.ids.insert(answer.ids.end(), message.ids().begin(), message.ids().end());
    answer.longest_gap = std::max(answer.longest_gap, now - last);
    last = now;
  }
  if (answer.ids.empty()) begun.Tell();
  const grpc::Status status = stream->Finish();
  if (!status.ok()) {
    answer.error =
        absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message()).ToString();
  }
  return answer;
}

int Main(int argc, char** argv) {
  Options options;
  Flags flags("stream_client", "Streams from a gateway and measures their gaps.");
  flags.Add("gateway", &options.gateway, "host:port");
  flags.Add("prompt", &options.prompts, "of one stream each");
  flags.Add("tokens", &options.tokens, "of every answer");
  flags.Add("seconds-max", &options.seconds_max, "after which streams that have not ended are cancelled");
  const absl::StatusOr<bool> parsed = flags.Parse(argc, argv);
  if (!parsed.ok()) return ExitWith("stream_client", parsed.status(), 2);
  if (!*parsed) return 0;
  const auto stub =
      v1::InferenceService::NewStub(grpc::CreateChannel(options.gateway, grpc::InsecureChannelCredentials()));
  Begun begun(options.prompts.size());
  std::vector<Answer> answers(options.prompts.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < answers.size(); ++i) {
    threads.emplace_back([&, i] { answers[i] = Read(options, *stub, i, begun); });
  }
  for (std::thread& thread : threads) thread.join();
  nlohmann::json json = nlohmann::json::array();
  for (const Answer& answer : answers) {
    json.push_back({{"ids", answer.ids},
                    {"text", answer.text},
                    {"logits_hash", answer.logits_hash},
                    {"error", answer.error},
                    {"longest_gap_ms", absl::ToDoubleMilliseconds(answer.longest_gap)}});
  }
  std::cout << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
