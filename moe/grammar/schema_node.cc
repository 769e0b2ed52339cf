#include "moe/grammar/schema_node.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr absl::string_view kAnnotations[] = {
    "title",    "description", "default",       "examples", "$schema",     "$comment",        "deprecated",
    "readOnly", "writeOnly",   "discriminator", "$defs",    "definitions", "contentEncoding", "contentMediaType"};
constexpr absl::string_view kTypes[] = {"object", "array", "string", "integer", "number", "boolean", "null"};

// What each keyword is about; "": every type.
struct Keyword {
  absl::string_view name;
  absl::string_view type;
};
constexpr Keyword kKeywords[] = {{"type", ""},
                                 {"enum", ""},
                                 {"const", ""},
                                 {"anyOf", ""},
                                 {"oneOf", ""},
                                 {"allOf", ""},
                                 {"$ref", ""},
                                 {"properties", "object"},
                                 {"required", "object"},
                                 {"additionalProperties", "object"},
                                 {"items", "array"},
                                 {"prefixItems", "array"},
                                 {"minItems", "array"},
                                 {"maxItems", "array"},
                                 {"minLength", "string"},
                                 {"maxLength", "string"},
                                 {"pattern", "string"},
                                 {"format", "string"},
                                 {"minimum", "number"},
                                 {"maximum", "number"},
                                 {"exclusiveMinimum", "number"},
                                 {"exclusiveMaximum", "number"}};
constexpr int64_t kCountMax = 1'000'000'000;
constexpr int64_t kBoundMax = 1'000'000'000'000'000;

bool IsAnnotation(absl::string_view name) {
  return std::find(std::begin(kAnnotations), std::end(kAnnotations), name) != std::end(kAnnotations) ||
         absl::StartsWith(name, "x-");
}

const Keyword* FindKeyword(absl::string_view name) {
  const auto found = std::find_if(std::begin(kKeywords), std::end(kKeywords),
                                  [name](const Keyword& keyword) { return keyword.name == name; });
  return found == std::end(kKeywords) ? nullptr : found;
}

}  // namespace

std::string PointerTo(absl::string_view pointer, absl::string_view name) {
  return absl::StrCat(pointer, "/", absl::StrReplaceAll(name, {{"~", "~0"}, {"/", "~1"}}));
}

absl::StatusOr<SchemaNode> SchemaNode::Read(const OrderedJson& json, std::string pointer) {
  SchemaNode node;
  node.json_ = &json;
  node.pointer_ = std::move(pointer);
  if (!json.is_object()) return SchemaError(node.pointer_, "a schema must be an object, true or false");
  RETURN_IF_ERROR(node.CheckKeywords());
  return node;
}

const OrderedJson* SchemaNode::Find(absl::string_view keyword) const { return json_->Find(keyword); }

absl::Status SchemaNode::CheckKeywords() const {
  for (const std::string& name : json_->names) {
    const bool root_id = name == "$id" && pointer_ == "#";
    if (IsAnnotation(name) || root_id || FindKeyword(name) != nullptr) continue;
    if (name == "uniqueItems" && Find(name)->is_boolean() && !Find(name)->boolean) continue;
    return SchemaError(PointerOf(name), "this keyword is not supported");
  }
  for (const char* keyword : {"$ref", "anyOf", "oneOf", "allOf"}) RETURN_IF_ERROR(CheckAlone(keyword, false));
  for (const char* keyword : {"enum", "const"}) RETURN_IF_ERROR(CheckAlone(keyword, true));
  if (Find("pattern") != nullptr && Find("format") != nullptr) {
    return SchemaError(PointerOf("format"), "is not supported beside pattern");
  }
  for (const char* shape : {"pattern", "format"}) {
    if (Find(shape) == nullptr) continue;
    for (const char* length : {"minLength", "maxLength"}) {
      if (Find(length) != nullptr) return SchemaError(PointerOf(length), "is not supported beside ", shape);
    }
  }
  return absl::OkStatus();
}

absl::Status SchemaNode::CheckAlone(absl::string_view keyword, bool beside_type) const {
  if (Find(keyword) == nullptr) return absl::OkStatus();
  for (const std::string& name : json_->names) {
    if (name == keyword || FindKeyword(name) == nullptr || (beside_type && name == "type")) continue;
    return SchemaError(PointerOf(name), "is not supported beside ", keyword);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> SchemaNode::Types() const {
  std::vector<std::string> types;
  const auto add = [&types](absl::string_view type) {
    if (std::find(types.begin(), types.end(), type) == types.end()) types.emplace_back(type);
  };
  const OrderedJson* type = Find("type");
  if (type == nullptr) {
    for (const std::string& name : json_->names) {
      const Keyword* keyword = FindKeyword(name);
      if (keyword != nullptr && !keyword->type.empty()) add(keyword->type);
    }
    return types;
  }
  const std::vector<OrderedJson> one{*type};
  const std::vector<OrderedJson>& named = type->is_array() ? type->items : one;
  if (named.empty()) return SchemaError(PointerOf("type"), "must name a type");
  for (const OrderedJson& name : named) {
    if (!name.is_string() || std::find(std::begin(kTypes), std::end(kTypes), name.text) == std::end(kTypes)) {
      return SchemaError(PointerOf("type"),
                         "must be object, array, string, integer, number, boolean, null or a list "
                         "of these");
    }
    add(name.text);
  }
  return types;
}

absl::StatusOr<std::optional<int32_t>> SchemaNode::Count(absl::string_view keyword) const {
  const OrderedJson* value = Find(keyword);
  if (value == nullptr) return std::optional<int32_t>();
  if (!value->is_number() || !(value->number >= 0 && value->number <= kCountMax) ||
      std::floor(value->number) != value->number) {
    return SchemaError(PointerOf(keyword), "must be a whole number from 0 to ", kCountMax);
  }
  return std::optional<int32_t>(static_cast<int32_t>(value->number));
}

absl::StatusOr<std::optional<JsonBound>> SchemaNode::Bound(absl::string_view closed, absl::string_view open,
                                                           bool lower) const {
  std::optional<JsonBound> bound;
  for (const absl::string_view keyword : {closed, open}) {
    const OrderedJson* value = Find(keyword);
    if (value == nullptr) continue;
    if (!value->is_number()) return SchemaError(PointerOf(keyword), "must be a number");
    if (std::floor(value->number) != value->number || std::abs(value->number) > static_cast<double>(kBoundMax)) {
      return SchemaError(PointerOf(keyword), "is ", value->text,
                         "; only whole numbers from -10^15 to 10^15 are "
                         "supported here");
    }
    const JsonBound other{static_cast<int64_t>(value->number), keyword == open};
    const bool tighter = !bound.has_value() || (lower ? other.value >= bound->value : other.value <= bound->value);
    if (tighter) bound = other;
  }
  return bound;
}

absl::StatusOr<std::optional<std::string>> SchemaNode::Text(absl::string_view keyword) const {
  const OrderedJson* value = Find(keyword);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return SchemaError(PointerOf(keyword), "must be a string");
  return std::optional<std::string>(value->text);
}

}  // namespace conclave
