// Finds the calls of functions in an answer as it comes, and takes them out of its text.
#ifndef CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_PARSER_H_
#define CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_PARSER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/stop_matcher.h"
#include "gateway/tools/tool_call_format.h"

namespace conclave {

// How an answer is to be read.
struct ToolCallReading {
  const ToolCallFormat* format = nullptr;
  bool single = false;             // only the first call is wanted
  bool begins_in_thought = false;  // the prompt ended with <think>
};

// One per answer; used by one thread at a time. Text that is no call comes out as it is, white space beside calls
// excepted; a call's name comes as soon as it is whole, its arguments as they come. A call that is not written in the
// form is text, and so is what looks like one in <think> … </think>. Where the pieces begin makes no difference. Time
// is linear in the text; what is held back is a part of a marker, white space, or a header of bounded length.
class ToolCallParser {
 public:
  static std::unique_ptr<ToolCallParser> Create(const ToolCallReading& reading);
  virtual ~ToolCallParser() = default;

  // Adds what became certain with `text` to the chunk's text and tool_calls.
  void Append(absl::string_view text, v1::GenerateResponse& chunk);
  // The end of the answer. Arguments that were cut off have come as far as they were written.
  void Flush(v1::GenerateResponse& chunk);
  // Calls whose name has come.
  int calls() const { return calls_; }
  // Nothing more is wanted: a single call is complete.
  bool done() const { return done_; }

 protected:
  explicit ToolCallParser(const ToolCallReading& reading);
  // One byte, behind thoughts and before done().
  virtual void Step(char byte, v1::GenerateResponse& chunk) = 0;
  virtual void End(v1::GenerateResponse& chunk) = 0;

  // Text of the answer; white space waits for what follows it, and goes where that is a call.
  void Content(absl::string_view text, v1::GenerateResponse& chunk);
  // An empty `id`: one is drawn.
  void BeginCall(std::string id, absl::string_view name, v1::GenerateResponse& chunk);
  void Arguments(absl::string_view text, v1::GenerateResponse& chunk);
  // Arguments that are empty become {}.
  void EndCall(v1::GenerateResponse& chunk);

  const ToolCallFormat& format_;

 private:
  enum class Place { kStart, kThought, kAnswer };

  void AppendByte(char byte, v1::GenerateResponse& chunk);

  const bool single_;
  Place place_;
  std::string start_;       // while it may become <think>
  size_t start_space_ = 0;  // of it, white space
  StopMatcher thought_end_;
  std::string space_;
  int calls_ = 0;
  bool has_arguments_ = false;  // of the call that is open
  bool done_ = false;
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_TOOL_CALL_PARSER_H_
