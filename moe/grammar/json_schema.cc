#include "moe/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "moe/base/status_macros.h"
#include "moe/grammar/json_formats.h"
#include "moe/grammar/json_parts.h"
#include "moe/grammar/ordered_json.h"
#include "moe/grammar/regex_grammar.h"
#include "moe/grammar/schema_node.h"

namespace conclave {
namespace {

constexpr size_t kPropertiesMax = 500;
// Of the pointer of a schema; each schema under way has its own.
constexpr size_t kPointerBytesMax = 2048;

bool HasType(const OrderedJson& value, absl::string_view type) {
  switch (value.kind) {
    case OrderedJson::Kind::kNull:
      return type == "null";
    case OrderedJson::Kind::kBoolean:
      return type == "boolean";
    case OrderedJson::Kind::kInteger:
      return type == "integer" || type == "number";
    case OrderedJson::Kind::kFloat:
      return type == "number" || (type == "integer" && std::floor(value.number) == value.number);
    case OrderedJson::Kind::kString:
      return type == "string";
    case OrderedJson::Kind::kArray:
      return type == "array";
    case OrderedJson::Kind::kObject:
      return type == "object";
  }
  return false;
}

// Every schema of the document becomes a rule, made when it is first referred to and filled from a queue, so that
// neither nesting nor recursion of schemas is one of ours.
class Compiler {
 public:
  explicit Compiler(const OrderedJson& document) : document_(document), parts_(builder_) {}

  absl::StatusOr<GrammarProgram> Compile() {
    const int32_t root = RuleOf(document_, "#");
    while (!queue_.empty()) {
      const Pending pending = std::move(queue_.front());
      queue_.pop_front();
      ASSIGN_OR_RETURN(const int32_t begin, Schema(*pending.schema, pending.pointer));
      builder_.SetRule(pending.rule, begin);
    }
    const absl::StatusOr<GrammarProgram> program = builder_.Finish(builder_.Call(root, builder_.Return()));
    if (!program.ok()) return SchemaError("#", "the schema ", program.status().message());
    return *program;
  }

 private:
  struct Pending {
    const OrderedJson* schema;
    std::string pointer;
    int32_t rule;
  };

  int32_t RuleOf(const OrderedJson& schema, const std::string& pointer) {
    const auto [entry, added] = rules_.try_emplace(&schema, 0);
    if (added) {
      entry->second = builder_.NewRule();
      queue_.push_back({&schema, pointer, entry->second});
    }
    return entry->second;
  }

  int32_t AnyRule() {
    if (!any_.has_value()) {
      any_ = builder_.NewRule();
      builder_.SetRule(*any_, parts_.AnyValue(builder_.Return()));
    }
    return *any_;
  }

  absl::StatusOr<int32_t> Schema(const OrderedJson& json, const std::string& pointer) {
    const int32_t end = builder_.Return();
    if (pointer.size() > kPointerBytesMax) {
      return SchemaError("#", "the names on the way to a schema have ", pointer.size(), " bytes; at most ",
                         kPointerBytesMax, " are taken");
    }
    if (json.is_boolean()) return json.boolean ? parts_.AnyValue(end) : builder_.Fail();
    ASSIGN_OR_RETURN(const SchemaNode node, SchemaNode::Read(json, pointer));
    if (node.Find("$ref") != nullptr) return Reference(node);
    for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
      if (node.Find(keyword) != nullptr) return Alternatives(node, keyword);
    }
    ASSIGN_OR_RETURN(const std::vector<std::string> types, node.Types());
    if (node.Find("enum") != nullptr || node.Find("const") != nullptr) return Constants(node, types);
    if (types.empty()) return parts_.AnyValue(end);
    int32_t begin = builder_.Fail();
    for (const std::string& type : types) {
      ASSIGN_OR_RETURN(const int32_t one, OfType(node, type));
      begin = builder_.Split(one, begin);
    }
    return begin;
  }

  absl::StatusOr<int32_t> OfType(const SchemaNode& node, absl::string_view type) {
    const int32_t end = builder_.Return();
    if (type == "object") return Object(node);
    if (type == "array") return Array(node);
    if (type == "string") return String(node);
    if (type == "integer" || type == "number") return Number(node, type == "integer");
    if (type == "null") return builder_.Literal("null", end);
    return builder_.Split(builder_.Literal("true", end), builder_.Literal("false", end));
  }

  absl::StatusOr<int32_t> Reference(const SchemaNode& node) {
    const std::string place = node.PointerOf("$ref");
    ASSIGN_OR_RETURN(const auto text, node.Text("$ref"));
    const std::string target = text.value_or("");
    if (target != "#" && !absl::StartsWith(target, "#/")) {
      return SchemaError(place, "only references into this schema are supported, such as #/$defs/name");
    }
    const OrderedJson* at = &document_;
    std::string pointer = "#";
    const std::vector<std::string> steps = absl::StrSplit(target.substr(1), '/');
    for (size_t i = 1; i < steps.size(); ++i) {
      const std::string name = absl::StrReplaceAll(steps[i], {{"~1", "/"}, {"~0", "~"}, {"%25", "%"}, {"%20", " "}});
      uint32_t index = 0;
      if (at->is_array()) {
        at = absl::SimpleAtoi(name, &index) && index < at->items.size() ? &at->items[index] : nullptr;
      } else {
        at = at->Find(name);
      }
      if (at == nullptr) return SchemaError(place, "there is nothing at ", target);
      pointer = PointerTo(pointer, name);
    }
    return builder_.Call(RuleOf(*at, pointer), builder_.Return());
  }

  absl::StatusOr<int32_t> Alternatives(const SchemaNode& node, const char* keyword) {
    const OrderedJson& list = *node.Find(keyword);
    const std::string place = node.PointerOf(keyword);
    if (!list.is_array() || list.items.empty()) return SchemaError(place, "must be a list of schemas, not empty");
    if (absl::string_view(keyword) == "allOf" && list.items.size() > 1) {
      return SchemaError(place, "is supported with one schema alone");
    }
    int32_t begin = builder_.Fail();
    for (size_t i = 0; i < list.items.size(); ++i) {
      const int32_t rule = RuleOf(list.items[i], PointerTo(place, absl::StrCat(i)));
      begin = builder_.Split(builder_.Call(rule, builder_.Return()), begin);
    }
    return begin;
  }

  absl::StatusOr<int32_t> Constants(const SchemaNode& node, const std::vector<std::string>& types) {
    const OrderedJson* values = node.Find("enum");
    if (values != nullptr && (!values->is_array() || values->items.empty())) {
      return SchemaError(node.PointerOf("enum"), "must be a list of values, not empty");
    }
    std::vector<std::string> texts;
    const auto add = [&](const OrderedJson& value) {
      const bool wanted = types.empty() || std::any_of(types.begin(), types.end(), [&value](const std::string& type) {
                            return HasType(value, type);
                          });
      if (wanted) texts.push_back(WriteJson(value));
    };
    if (values == nullptr) {
      add(*node.Find("const"));
    } else {
      for (const OrderedJson& value : values->items) add(value);
    }
    if (texts.empty()) {
      return SchemaError(node.PointerOf("type"), "none of the values of enum or const has this type");
    }
    return builder_.Literals(std::move(texts), builder_.Return());
  }

  absl::StatusOr<int32_t> Number(const SchemaNode& node, bool integer) {
    const int32_t end = builder_.Return();
    ASSIGN_OR_RETURN(const auto least, node.Bound("minimum", "exclusiveMinimum", true));
    ASSIGN_OR_RETURN(const auto most, node.Bound("maximum", "exclusiveMaximum", false));
    if (!least.has_value() && !most.has_value()) return integer ? parts_.Integer(end) : parts_.Number(end);
    return integer ? parts_.IntegerIn(least, most, end) : parts_.NumberIn(least, most, end);
  }

  absl::StatusOr<int32_t> String(const SchemaNode& node) {
    const int32_t end = builder_.Return();
    ASSIGN_OR_RETURN(const auto pattern, node.Text("pattern"));
    if (pattern.has_value()) return Pattern(*pattern, node.PointerOf("pattern"), /*whole=*/false);
    ASSIGN_OR_RETURN(const auto format, node.Text("format"));
    if (format.has_value()) {
      const std::string known = PatternOfFormat(*format);
      if (known.empty()) {
        return SchemaError(node.PointerOf("format"), "'", format->substr(0, 64), "' is not supported; ", KnownFormats(),
                           " are");
      }
      return Pattern(known, node.PointerOf("format"), /*whole=*/true);
    }
    ASSIGN_OR_RETURN(const auto least, node.Count("minLength"));
    ASSIGN_OR_RETURN(const auto most, node.Count("maxLength"));
    if (most.has_value() && *most < least.value_or(0)) return builder_.Fail();
    return parts_.String(least.value_or(0), most.value_or(-1), end);
  }

  absl::StatusOr<int32_t> Pattern(const std::string& text, const std::string& place, bool whole) {
    const absl::StatusOr<RegexPattern> pattern = RegexPattern::Parse(text);
    if (!pattern.ok()) return SchemaError(place, "the pattern ", pattern.status().message());
    const auto write = [this](const CharSet& set, int32_t next) { return parts_.StringChar(set, next); };
    return builder_.Byte('"', pattern->Append(builder_, write, whole, builder_.Byte('"', builder_.Return())));
  }

  absl::StatusOr<int32_t> Array(const SchemaNode& node) {
    ASSIGN_OR_RETURN(const auto least, node.Count("minItems"));
    ASSIGN_OR_RETURN(const auto most, node.Count("maxItems"));
    std::vector<int32_t> first;
    if (const OrderedJson* prefix = node.Find("prefixItems"); prefix != nullptr) {
      if (!prefix->is_array() || prefix->items.empty()) {
        return SchemaError(node.PointerOf("prefixItems"), "must be a list of schemas, not empty");
      }
      for (size_t i = 0; i < prefix->items.size(); ++i) {
        first.push_back(RuleOf(prefix->items[i], PointerTo(node.PointerOf("prefixItems"), absl::StrCat(i))));
      }
    }
    std::optional<int32_t> item;
    const OrderedJson* items = node.Find("items");
    const bool none = items != nullptr && items->is_boolean() && !items->boolean;
    if (items == nullptr && first.empty()) item = AnyRule();
    if (items != nullptr && !none) item = RuleOf(*items, node.PointerOf("items"));
    if (most.has_value() && *most < least.value_or(0)) return builder_.Fail();
    return parts_.Array(first, item, least.value_or(0), most.value_or(-1), builder_.Return());
  }

  struct Property {
    std::string name;
    int32_t value;
    bool required;
  };

  // Those that are listed, in their order, then those that are required alone.
  absl::StatusOr<std::vector<Property>> Properties(const SchemaNode& node, std::optional<int32_t> others) {
    absl::flat_hash_set<std::string> required;
    std::vector<std::string> order;
    if (const OrderedJson* names = node.Find("required"); names != nullptr) {
      if (!names->is_array()) return SchemaError(node.PointerOf("required"), "must be a list of names");
      for (const OrderedJson& name : names->items) {
        if (!name.is_string()) return SchemaError(node.PointerOf("required"), "must be a list of names");
        if (required.insert(name.text).second) order.push_back(name.text);
      }
    }
    std::vector<Property> properties;
    if (const OrderedJson* listed = node.Find("properties"); listed != nullptr) {
      const std::string place = node.PointerOf("properties");
      if (!listed->is_object()) return SchemaError(place, "must be an object of schemas");
      if (listed->names.size() > kPropertiesMax) {
        return SchemaError(place, "has ", listed->names.size(), " properties; at most ", kPropertiesMax);
      }
      for (size_t i = 0; i < listed->names.size(); ++i) {
        const std::string& name = listed->names[i];
        properties.push_back({name, RuleOf(listed->items[i], PointerTo(place, name)), required.erase(name) > 0});
      }
    }
    for (const std::string& name : order) {
      if (!required.contains(name)) continue;
      if (!others.has_value()) {
        return SchemaError(node.PointerOf("required"), "'", name.substr(0, 64), "' is not among properties");
      }
      properties.push_back({name, *others, true});
    }
    return properties;
  }

  absl::StatusOr<int32_t> Object(const SchemaNode& node) {
    const OrderedJson* additional = node.Find("additionalProperties");
    const bool listed = node.Find("properties") != nullptr;
    if (additional == nullptr && !listed && node.Find("required") == nullptr) {
      return parts_.AnyObject(builder_.Return());
    }
    std::optional<int32_t> others;
    if (additional == nullptr) {
      if (!listed) others = AnyRule();
    } else if (!additional->is_boolean() || additional->boolean) {
      others = RuleOf(*additional, node.PointerOf("additionalProperties"));
    }
    // Where the schema says nothing, other members are allowed to a name that is required.
    const std::optional<int32_t> unlisted = additional == nullptr ? AnyRule() : others;
    ASSIGN_OR_RETURN(const std::vector<Property> properties, Properties(node, unlisted));
    return Members(properties, others);
  }

  int32_t MemberRule(const std::string& name, int32_t value) {
    const int32_t rule = builder_.NewRule();
    const int32_t rest = parts_.Blank(builder_.Call(value, builder_.Return()));
    builder_.SetRule(rule, builder_.Literal(absl::StrCat(JsonQuoted(name), ":"), rest));
    return rule;
  }

  // `first`: where no member has come yet; `rest`: where one has.
  int32_t Members(const std::vector<Property>& properties, std::optional<int32_t> others) {
    const int32_t close = builder_.Byte('}', builder_.Return());
    int32_t first = close, rest = parts_.Space(close);
    if (others.has_value()) {
      std::vector<std::string> names;
      for (const Property& property : properties) names.push_back(property.name);
      const int32_t other = builder_.NewRule();
      const int32_t value = builder_.Byte(':', parts_.Blank(builder_.Call(*others, builder_.Return())));
      builder_.SetRule(other, parts_.StringOtherThan(names, value));
      rest = builder_.Repeat(parts_.Another(other), 0, -1, rest);
      first = builder_.Split(builder_.Call(other, rest), close);
    }
    for (auto property = properties.rbegin(); property != properties.rend(); ++property) {
      const int32_t member = MemberRule(property->name, property->value);
      const int32_t as_first = builder_.Call(member, rest);
      const int32_t as_rest = builder_.Call(parts_.Another(member), rest);
      first = property->required ? as_first : builder_.Split(as_first, first);
      rest = property->required ? as_rest : builder_.Split(as_rest, rest);
    }
    return builder_.Byte('{', parts_.Space(first));
  }

  const OrderedJson& document_;
  GrammarBuilder builder_;
  JsonParts parts_;
  absl::flat_hash_map<const OrderedJson*, int32_t> rules_;
  std::deque<Pending> queue_;
  std::optional<int32_t> any_;
};

}  // namespace

absl::StatusOr<GrammarProgram> CompileJsonSchema(absl::string_view schema) {
  if (static_cast<int64_t>(schema.size()) > kSchemaBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("#: the schema has ", schema.size(), " bytes; at most ", kSchemaBytesMax, " are taken"));
  }
  const absl::StatusOr<OrderedJson> document = ParseOrderedJson(schema);
  if (!document.ok()) return SchemaError("#", "the schema ", document.status().message());
  return Compiler(*document).Compile();
}

}  // namespace conclave
