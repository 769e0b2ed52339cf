// Server-sent events as they arrive, and what events of OpenAI's completions mean.
#ifndef CONCLAVE_CLI_BENCH_EVENT_STREAM_H_
#define CONCLAVE_CLI_BENCH_EVENT_STREAM_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Takes a stream apart (WHATWG HTML, section 9.2.6), however it was cut into pieces. Not thread-safe.
class EventStreamParser {
 public:
  // Calls `on_data` with the data of each event that ends in `bytes`. Comments and other fields are dropped.
  // RESOURCE_EXHAUSTED: an event of more than 16 MiB.
  absl::Status Feed(absl::string_view bytes, absl::FunctionRef<void(absl::string_view)> on_data);

 private:
  void TakeLine(absl::FunctionRef<void(absl::string_view)> on_data);

  std::string line_, data_;
  bool has_data_ = false;
  bool after_return_ = false;  // a line feed that follows a carriage return ends no second line
};

// One event of a streamed completion.
struct CompletionEvent {
  bool done = false;                 // [DONE]
  bool piece = false;                // text of the answer, perhaps none yet of a character of several tokens
  bool finished = false;             // it brings the finish reason
  std::optional<std::string> error;  // an error in mid-stream: "type: message"
  std::optional<int64_t> prompt_tokens, completion_tokens, cached_tokens;
};
// DATA_LOSS: no JSON of that kind.
absl::StatusOr<CompletionEvent> ParseCompletionEvent(absl::string_view data);

// The message in an error body of OpenAI's API, or the beginning of whatever it is.
std::string ErrorMessageOf(absl::string_view body);

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_EVENT_STREAM_H_
