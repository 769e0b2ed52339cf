#include "gateway/tools/tool_validation.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

constexpr char kTool[] = R"({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}})";

std::string ToolWith(const std::string& function) {
  return absl::StrCat(R"({"type": "function", "function": {)", function, "}}");
}

// What is said of a single tool.
std::string Said(const std::string& tool) {
  v1::ChatPrompt chat;
  chat.add_tools(tool);
  const absl::Status status = ValidateTools(chat);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(ValidateTools, TakesOpenAIsDefinitions) {
  EXPECT_EQ(Said(kTool), "");
  EXPECT_EQ(Said(ToolWith(R"("name": "f")")), "");
  EXPECT_EQ(Said(ToolWith(R"("name": "f", "description": null, "parameters": null, "strict": false)")), "");
}

TEST(ValidateTools, NamesWhatIsWrong) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "chat.tools[0]: "},
      {"[]", "chat.tools[0]: must be an object"},
      {R"({"type": "function"})", "chat.tools[0].function: is missing"},
      {R"({"function": {"name": "f"}})", "chat.tools[0].type: is missing"},
      {R"({"type": "retrieval"})", "chat.tools[0].type: must be function"},
      {R"({"type": "function", "function": "f"})", "chat.tools[0].function: must be an object"},
      {R"({"type": "function", "function": {"name": "f"}, "x": 1})", "chat.tools[0].x: is unknown here"},
      {ToolWith(""), "chat.tools[0].function.name: is missing"},
      {ToolWith(R"("name": 7)"), "chat.tools[0].function.name: must be 1 to 64"},
      {ToolWith(R"("name": "a b")"), "chat.tools[0].function.name: must be 1 to 64"},
      {ToolWith(R"("name": "f", "name": "g")"), "chat.tools[0]: "},
      {ToolWith(R"("name": "f", "description": 7)"), "chat.tools[0].function.description: must be a string"},
      {ToolWith(R"("name": "f", "parameters": [])"), "chat.tools[0].function.parameters: must be an object"},
      {ToolWith(R"("name": "f", "strict": 1)"), "chat.tools[0].function.strict: must be true or false"},
      {ToolWith(R"("name": "f", "strict": true)"), "chat.tools[0].function.strict: true is not supported"},
      {ToolWith(R"("name": "f", "schema": {})"), "chat.tools[0].function.schema: is unknown here"},
      {ToolWith(absl::StrCat(R"("name": "f", "parameters": {"a": )", std::string(70, '['), std::string(70, ']'), "}")),
       "chat.tools[0]: "}};
  for (const auto& [tool, part] : cases) {
    EXPECT_TRUE(absl::StartsWith(Said(tool), part)) << tool << ": " << Said(tool) << " should say " << part;
  }
}

TEST(ValidateTools, TheirNumberAndSizeAreLimitedAndNamesDiffer) {
  v1::ChatPrompt chat;
  for (int i = 0; i < kToolsMax; ++i) chat.add_tools(ToolWith(absl::StrCat(R"("name": "f)", i, "\"")));
  EXPECT_TRUE(ValidateTools(chat).ok());
  chat.set_tools(7, ToolWith(R"("name": "f3")"));
  EXPECT_TRUE(absl::StartsWith(ValidateTools(chat).message(), "chat.tools[7].function.name: 'f3'"));
  chat.add_tools(kTool);
  EXPECT_TRUE(absl::StartsWith(ValidateTools(chat).message(), "chat.tools: has 129 functions"));
  v1::ChatPrompt large;
  large.add_tools(ToolWith(absl::StrCat(R"("name": "f", "description": ")", std::string(kToolBytesMax, 'x'), "\"")));
  EXPECT_TRUE(absl::StartsWith(ValidateTools(large).message(), "chat.tools: have "));
}

TEST(ValidateTools, AChoiceNeedsWhatItChoosesFrom) {
  v1::ChatPrompt chat;
  for (const auto mode : {v1::ToolChoice::MODE_AUTO, v1::ToolChoice::MODE_NONE, v1::ToolChoice::MODE_UNSPECIFIED}) {
    chat.mutable_tool_choice()->set_mode(mode);
    EXPECT_TRUE(ValidateTools(chat).ok());
  }
  for (const auto mode : {v1::ToolChoice::MODE_REQUIRED, v1::ToolChoice::MODE_FUNCTION}) {
    chat.mutable_tool_choice()->set_mode(mode);
    EXPECT_EQ(ValidateTools(chat).message(), "chat.tool_choice: is only allowed when tools are specified");
  }
  chat.add_tools(kTool);
  chat.mutable_tool_choice()->set_function("g");
  EXPECT_TRUE(absl::StartsWith(ValidateTools(chat).message(), "chat.tool_choice: names a function that is none"));
  chat.mutable_tool_choice()->set_function("f");
  EXPECT_TRUE(ValidateTools(chat).ok());
  chat.mutable_tool_choice()->set_mode(static_cast<v1::ToolChoice::Mode>(99));
  EXPECT_EQ(ValidateTools(chat).message(), "chat.tool_choice: is unknown here");
}

v1::ChatPrompt Called() {
  v1::ChatPrompt chat;
  chat.add_messages()->set_role("user");
  v1::ChatMessage* assistant = chat.add_messages();
  assistant->set_role("assistant");
  for (const char* id : {"a", "b"}) {
    v1::ToolCall* call = assistant->add_tool_calls();
    call->set_id(id);
    call->set_name("f");
    call->set_arguments("no JSON: models err");
  }
  for (const char* id : {"b", "a"}) {
    chat.add_messages()->set_role("tool");
    chat.mutable_messages()->rbegin()->set_tool_call_id(id);
  }
  return chat;
}

TEST(ValidateToolMessages, EveryCallHasItsResultRightBehindIt) {
  EXPECT_TRUE(ValidateToolMessages(Called()).ok());
  const std::pair<std::function<void(v1::ChatPrompt&)>, const char*> cases[] = {
      {[](auto& chat) { chat.mutable_messages(2)->clear_tool_call_id(); }, "chat.messages[2].tool_call_id: is missing"},
      {[](auto& chat) { chat.mutable_messages(2)->set_tool_call_id("c"); },
       "chat.messages[2].tool_call_id: messages with role tool must be a response"},
      {[](auto& chat) { chat.mutable_messages(3)->set_tool_call_id("b"); },
       "chat.messages[3].tool_call_id: messages with role tool must be a response"},
      {[](auto& chat) { chat.mutable_messages()->RemoveLast(); },
       "chat.messages[1].tool_calls: an assistant message with tool_calls must be followed by tool messages responding "
       "to each tool_call_id. The following tool_call_ids did not have response messages: a"},
      {[](auto& chat) { chat.mutable_messages(3)->set_role("user"); }, "chat.messages[1].tool_calls: an assistant"},
      {[](auto& chat) { chat.mutable_messages(0)->set_role("tool"); }, "chat.messages[0].tool_call_id: is missing"},
      {[](auto& chat) { chat.mutable_messages(0)->set_tool_call_id("a"); }, "chat.messages[0].tool_call_id: belongs"},
      {[](auto& chat) { chat.mutable_messages(1)->set_role("user"); }, "chat.messages[1].tool_calls: belong"},
      {[](auto& chat) { chat.mutable_messages(1)->mutable_tool_calls(1)->clear_id(); },
       "chat.messages[1].tool_calls[1].id: must not be empty"},
      {[](auto& chat) { chat.mutable_messages(1)->mutable_tool_calls(1)->set_id("a"); },
       "chat.messages[1].tool_calls[1].id: stands twice"},
      {[](auto& chat) { chat.mutable_messages(1)->mutable_tool_calls(1)->set_id(std::string(257, 'x')); },
       "chat.messages[1].tool_calls[1].id: is longer than 256"},
      {[](auto& chat) { chat.mutable_messages(1)->mutable_tool_calls(0)->set_name("<|end|>"); },
       "chat.messages[1].tool_calls[0].name: must be 1 to 64"},
      {[](auto& chat) {
         for (int i = 0; i < 200; ++i) *chat.mutable_messages(1)->add_tool_calls() = {};
       },
       "chat.messages[1].tool_calls: has 202 calls"}};
  for (const auto& [change, part] : cases) {
    v1::ChatPrompt chat = Called();
    change(chat);
    const absl::Status status = ValidateToolMessages(chat);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << part;
    EXPECT_TRUE(absl::StartsWith(status.message(), part)) << status << " should say " << part;
  }
}

}  // namespace
}  // namespace conclave
