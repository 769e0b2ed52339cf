#include "gateway/http/tool_fields.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gateway/http/json_body.h"
#include "gateway/tools/tool_call_format.h"

namespace conclave {
namespace {

using nlohmann::json;

// {"type": "function", "function": {"name": "f"}}.
void ReadNamedChoice(BodyFields& fields, const json& choice, v1::ToolChoice& named) {
  BodyFields outer(choice, "tool_choice.");
  const std::string type = outer.Text("type").value_or("");
  if (type != "function") return fields.FailUnsupported("tool_choice.type", "must be function");
  const json* function = outer.Find("function");
  if (function == nullptr || !function->is_object()) {
    return fields.Fail("tool_choice.function", function == nullptr ? "is missing" : "must be an object");
  }
  BodyFields inner(*function, "tool_choice.function.");
  const auto name = inner.Text("name");
  if (!name.has_value()) inner.Fail("name", "is missing");
  for (BodyFields* part : {&inner, &outer}) {
    if (const absl::Status status = part->Finish(); !status.ok()) return fields.Fail(status);
  }
  named.set_mode(v1::ToolChoice::MODE_FUNCTION);
  named.set_function(*name);
}

void ReadToolChoice(BodyFields& fields, v1::ChatPrompt& chat) {
  const json* choice = fields.Find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object()) return ReadNamedChoice(fields, *choice, *chat.mutable_tool_choice());
  v1::ToolChoice::Mode mode = v1::ToolChoice::MODE_UNSPECIFIED;
  if (*choice == "auto") mode = v1::ToolChoice::MODE_AUTO;
  if (*choice == "none") mode = v1::ToolChoice::MODE_NONE;
  if (*choice == "required") mode = v1::ToolChoice::MODE_REQUIRED;
  if (mode == v1::ToolChoice::MODE_UNSPECIFIED) {
    return fields.Fail("tool_choice", "must be auto, none, required, or an object that names a function");
  }
  chat.mutable_tool_choice()->set_mode(mode);
}

// One of an assistant's calls.
void ReadToolCall(BodyFields& call, v1::ToolCall& read) {
  if (call.Text("type").value_or("function") != "function") return call.FailUnsupported("type", "must be function");
  const auto id = call.Text("id");
  if (!id.has_value()) return call.Fail("id", "is missing");
  read.set_id(*id);
  const json* function = call.Find("function");
  if (function == nullptr || !function->is_object()) {
    return call.Fail("function", function == nullptr ? "is missing" : "must be an object");
  }
  BodyFields inner(*function, absl::StrCat(call.path(), "function."));
  auto name = inner.Text("name");
  auto arguments = inner.Text("arguments");
  if (!name.has_value()) inner.Fail("name", "is missing");
  if (!arguments.has_value()) inner.Fail("arguments", "is missing");
  if (name.has_value() && !IsFunctionName(*name)) {
    inner.Fail("name", "must be 1 to 64 of a-z, A-Z, 0-9, underscore and dash");
  }
  if (const absl::Status status = inner.Finish(); !status.ok()) return call.Fail(status);
  read.set_name(*std::move(name));
  read.set_arguments(*std::move(arguments));
  // Where the call stood in a stream.
  call.Harmless({"index"});
}

}  // namespace

void ReadTools(BodyFields& fields, absl::string_view body, v1::ChatPrompt& chat) {
  ReadToolChoice(fields, chat);
  chat.set_single_tool_call(!fields.Bool("parallel_tool_calls").value_or(true));
  const json* tools = fields.Find("tools");
  if (tools == nullptr) return;
  if (!tools->is_array()) return fields.Fail("tools", "must be a list");
  const std::vector<absl::string_view> texts = ListItemTexts(body, "tools");
  if (texts.size() != tools->size()) {
    return fields.Fail("tools", "cannot be read: write its name without escapes");
  }
  for (const absl::string_view text : texts) chat.add_tools(std::string(text));
}

void ReadNoTools(BodyFields& fields) {
  const json* tools = fields.Find("tools");
  if (tools != nullptr && *tools != json::array()) {
    fields.FailUnsupported("tools", "is for chats: use /v1/chat/completions");
  }
  if (fields.Text("tool_choice").value_or("none") != "none") {
    fields.FailUnsupported("tool_choice", "is for chats: use /v1/chat/completions");
  }
  fields.Bool("parallel_tool_calls");
}

void ReadToolCalls(BodyFields& message, v1::ChatMessage& turn) {
  if (auto id = message.Text("tool_call_id"); id.has_value()) turn.set_tool_call_id(*std::move(id));
  const json* calls = message.Find("tool_calls");
  if (calls == nullptr) return;
  if (!calls->is_array()) return message.Fail("tool_calls", "must be a list");
  for (size_t i = 0; i < calls->size(); ++i) {
    const std::string name = absl::StrCat("tool_calls[", i, "]");
    if (!(*calls)[i].is_object()) return message.Fail(name, "must be an object");
    BodyFields call((*calls)[i], absl::StrCat(message.path(), name, "."));
    ReadToolCall(call, *turn.add_tool_calls());
    if (const absl::Status status = call.Finish(); !status.ok()) return message.Fail(status);
  }
}

}  // namespace conclave
