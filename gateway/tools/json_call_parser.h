// Calls that are JSON objects between two tags, as the Hermes models write them. Internal to the parser of tool calls.
#ifndef CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_
#define CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_

#include <string>

#include "gateway/stop_matcher.h"
#include "gateway/tools/tool_call_parser.h"

namespace conclave {

// Of CallHeader::kJson: {"name": …, "arguments": …}, in either order. Arguments stream where the name stands before
// them; those that are a string hold JSON in it.
class JsonCallParser final : public ToolCallParser {
 public:
  explicit JsonCallParser(const ToolCallReading& reading);

 protected:
  void Step(char byte, v1::GenerateResponse& chunk) override;
  void End(v1::GenerateResponse& chunk) override;

 private:
  // What comes next.
  enum class Next { kText, kObject, kKey, kKeyString, kColon, kValue, kInValue, kCommaOrEnd, kCallEnd };

  void Enter(Next next);
  void StepObject(char byte, v1::GenerateResponse& chunk);
  void StepValue(char byte, v1::GenerateResponse& chunk);
  void EndValue(v1::GenerateResponse& chunk);
  void TakeName(v1::GenerateResponse& chunk);
  void NotACall(v1::GenerateResponse& chunk);

  Next next_ = Next::kText;
  StopMatcher matcher_;  // of the tag that comes next
  std::string raw_;      // since the tag, until there is a name
  std::string key_, value_;
  std::string arguments_;  // that stand before the name
  bool begun_ = false;     // the name has come
  bool streams_ = false;   // the value is arguments that go out as they come
  bool in_string_ = false, escaped_ = false;
  int depth_ = 0;  // of brackets in the value
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_
