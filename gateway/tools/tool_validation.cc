#include "gateway/tools/tool_validation.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gateway/refusal.h"
#include "gateway/tools/tool_call_format.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/strict_json.h"

namespace conclave {
namespace {

using nlohmann::json;

constexpr char kNameRule[] = "must be 1 to 64 of a-z, A-Z, 0-9, underscore and dash";

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckKeys(const std::string& path, const json& object, std::initializer_list<absl::string_view> known) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return Invalid(path, ".", absl::CHexEscape(key.substr(0, 64)), ": is unknown here");
  }
  return absl::OkStatus();
}

// The member, or null where it is absent or null.
const json* Member(const json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status ValidateFunction(const std::string& path, const json& function) {
  RETURN_IF_ERROR(CheckKeys(path, function, {"name", "description", "parameters", "strict"}));
  const json* name = Member(function, "name");
  if (name == nullptr) return Invalid(path, ".name: is missing");
  if (!name->is_string() || !IsFunctionName(name->get_ref<const std::string&>())) {
    return Invalid(path, ".name: ", kNameRule);
  }
  const json* description = Member(function, "description");
  if (description != nullptr && !description->is_string()) return Invalid(path, ".description: must be a string");
  const json* parameters = Member(function, "parameters");
  if (parameters != nullptr && !parameters->is_object()) {
    return Invalid(path, ".parameters: must be an object, a JSON Schema");
  }
  const json* strict = Member(function, "strict");
  if (strict == nullptr) return absl::OkStatus();
  if (!strict->is_boolean()) return Invalid(path, ".strict: must be true or false");
  if (!strict->get<bool>()) return absl::OkStatus();
  return Unsupported(
      absl::StrCat(path,
                   ".strict: true is not supported by this server: nothing makes sure that the arguments which "
                   "the model writes fit the parameters; leave it out, and check them"));
}

// One definition; sets `name`.
absl::Status ValidateTool(const std::string& path, const std::string& text, std::string* name) {
  const absl::Status strict = CheckStrictJson(text);
  if (!strict.ok()) return Invalid(path, ": ", strict.message());
  const json tool = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!tool.is_object()) return Invalid(path, ": must be an object");
  RETURN_IF_ERROR(CheckKeys(path, tool, {"type", "function"}));
  const json* type = Member(tool, "type");
  if (type == nullptr) return Invalid(path, ".type: is missing");
  if (*type != "function") return Invalid(path, ".type: must be function");
  const json* function = Member(tool, "function");
  if (function == nullptr) return Invalid(path, ".function: is missing");
  if (!function->is_object()) return Invalid(path, ".function: must be an object");
  RETURN_IF_ERROR(ValidateFunction(absl::StrCat(path, ".function"), *function));
  *name = (*function)["name"].get<std::string>();
  return absl::OkStatus();
}

absl::Status ValidateCalls(const std::string& path, const v1::ChatMessage& message) {
  if (message.tool_calls_size() > kCallsMax) {
    return Invalid(path, ".tool_calls: has ", message.tool_calls_size(), " calls; at most ", kCallsMax, " are taken");
  }
  if (message.role() != "assistant" && message.tool_calls_size() > 0) {
    return Invalid(path, ".tool_calls: belong to messages of the assistant");
  }
  absl::flat_hash_set<absl::string_view> ids;
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    const v1::ToolCall& call = message.tool_calls(i);
    const std::string name = absl::StrCat(path, ".tool_calls[", i, "]");
    if (call.id().empty()) return Invalid(name, ".id: must not be empty");
    if (call.id().size() > kCallIdBytesMax) return Invalid(name, ".id: is longer than ", kCallIdBytesMax, " bytes");
    if (!ids.insert(call.id()).second) return Invalid(name, ".id: stands twice in one message");
    if (!IsFunctionName(call.name())) return Invalid(name, ".name: ", kNameRule);
  }
  return absl::OkStatus();
}

// Calls that wait for their results.
struct OpenCalls {
  int message = 0;  // whose they are
  std::vector<absl::string_view> ids;
};

// In OpenAI's words.
absl::Status CheckAnswered(const OpenCalls& open) {
  if (open.ids.empty()) return absl::OkStatus();
  return Invalid("chat.messages[", open.message,
                 "].tool_calls: an assistant message with tool_calls must be followed by ",
                 "tool messages responding to each tool_call_id. The following tool_call_ids did not have response ",
                 "messages: ", absl::StrJoin(open.ids, ", "));
}

absl::Status TakeResult(const std::string& path, const v1::ChatMessage& message, OpenCalls& open) {
  if (message.tool_call_id().empty()) return Invalid(path, ".tool_call_id: is missing");
  const auto found = std::find(open.ids.begin(), open.ids.end(), message.tool_call_id());
  if (found == open.ids.end()) {
    return Invalid(path,
                   ".tool_call_id: messages with role tool must be a response to a preceding message with "
                   "tool_calls that has this id");
  }
  open.ids.erase(found);
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateTools(const v1::ChatPrompt& chat) {
  if (chat.tools_size() > kToolsMax) {
    return Invalid("chat.tools: has ", chat.tools_size(), " functions; at most ", kToolsMax, " are taken");
  }
  int64_t bytes = 0;
  for (const std::string& tool : chat.tools()) bytes += static_cast<int64_t>(tool.size());
  if (bytes > kToolBytesMax) {
    return Invalid("chat.tools: have ", bytes, " bytes; at most ", kToolBytesMax, " are taken");
  }
  absl::flat_hash_set<std::string> names;
  for (int i = 0; i < chat.tools_size(); ++i) {
    const std::string path = absl::StrCat("chat.tools[", i, "]");
    std::string name;
    RETURN_IF_ERROR(ValidateTool(path, chat.tools(i), &name));
    if (!names.insert(name).second)
      return Invalid(path, ".function.name: '", name, "' is that of another function too");
  }
  const v1::ToolChoice& choice = chat.tool_choice();
  if (!v1::ToolChoice::Mode_IsValid(choice.mode())) return Invalid("chat.tool_choice: is unknown here");
  const bool names_one = choice.mode() == v1::ToolChoice::MODE_FUNCTION;
  if ((names_one || choice.mode() == v1::ToolChoice::MODE_REQUIRED) && names.empty()) {
    return Invalid("chat.tool_choice: is only allowed when tools are specified");
  }
  if (names_one && !names.contains(choice.function())) {
    return Invalid("chat.tool_choice: names a function that is none of the tools");
  }
  return absl::OkStatus();
}

std::string FunctionName(const std::string& tool) {
  return json::parse(tool, nullptr, /*allow_exceptions=*/false)["function"]["name"].get<std::string>();
}

absl::Status ValidateToolMessages(const v1::ChatPrompt& chat) {
  OpenCalls open;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    const std::string path = absl::StrCat("chat.messages[", i, "]");
    RETURN_IF_ERROR(ValidateCalls(path, message));
    if (message.role() == "tool") {
      RETURN_IF_ERROR(TakeResult(path, message, open));
      continue;
    }
    RETURN_IF_ERROR(CheckAnswered(open));
    if (!message.tool_call_id().empty()) return Invalid(path, ".tool_call_id: belongs to messages of the role tool");
    open.message = i;
    open.ids.clear();
    for (const v1::ToolCall& call : message.tool_calls()) open.ids.push_back(call.id());
  }
  return CheckAnswered(open);
}

}  // namespace conclave
