// Calls between markers, as DeepSeek's and Kimi's models write them. Internal to the parser of tool calls.
#ifndef CONCLAVE_GATEWAY_TOOLS_MARKED_CALL_PARSER_H_
#define CONCLAVE_GATEWAY_TOOLS_MARKED_CALL_PARSER_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "gateway/stop_matcher.h"
#include "gateway/tools/tool_call_parser.h"

namespace conclave {

// Of every header but CallHeader::kJson.
class MarkedCallParser final : public ToolCallParser {
 public:
  explicit MarkedCallParser(const ToolCallReading& reading);

 protected:
  void Step(char byte, v1::GenerateResponse& chunk) override;
  void End(v1::GenerateResponse& chunk) override;

 private:
  enum class State { kText, kHeader, kArguments };

  void Enter(State state);
  void StepHeader(bool found, absl::string_view certain, v1::GenerateResponse& chunk);
  // False: the header is not of the form.
  bool TakeHeader(v1::GenerateResponse& chunk);
  void HeaderIsText(absl::string_view rest, v1::GenerateResponse& chunk);
  void AppendArguments(absl::string_view text, v1::GenerateResponse& chunk);

  State state_ = State::kText;
  const std::vector<std::string> markers_;
  StopMatcher matcher_;  // of all markers
  std::string header_;   // since call_begin
  std::string trimmed_;  // of the arguments: what belongs to them only if more follows
  bool has_arguments_ = false;
  absl::flat_hash_set<std::string> ids_;  // of calls, where the model writes them
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_MARKED_CALL_PARSER_H_
