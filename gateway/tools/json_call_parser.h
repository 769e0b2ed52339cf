// Calls that are JSON objects between two tags, as the Hermes models write them. Internal to the parser of tool calls.
#ifndef CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_
#define CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_

#include <string>

#include "gateway/stop_matcher.h"
#include "gateway/tools/tool_call_parser.h"

namespace conclave {

// Of CallHeader::kJson: {"name": …, "arguments": …}, in either order. Arguments stream where the name stands before
// them; those that are a string hold JSON in it. Of several arguments the first count.
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
  // `byte`: the one that came last.
  void EndValue(char byte, v1::GenerateResponse& chunk);
  void TakeName(char byte, v1::GenerateResponse& chunk);
  void NotACall(char byte, v1::GenerateResponse& chunk);
  // The value is the call's arguments.
  bool IsArguments() const { return !taken_ && (key_ == "arguments" || key_ == "parameters"); }

  Next next_ = Next::kText;
  StopMatcher matcher_;  // of the tags that may come next, the one that begins a call first
  std::string raw_;      // since the tag, until there is a name
  std::string key_, value_;
  std::string arguments_;  // that stand before the name
  bool begun_ = false;     // the name has come
  bool taken_ = false;     // arguments have come
  bool streams_ = false;   // the value is arguments that go out as they come
  bool in_string_ = false, escaped_ = false;
  int depth_ = 0;  // of brackets in the value
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_TOOLS_JSON_CALL_PARSER_H_
