#include "moe/tokenizer/jinja/json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/json_complaint.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave::jinja {
namespace {

void AppendJsonString(const Text& text, Text* out) {
  out->Append("\"", /*from_template=*/true);
  const std::string& bytes = text.bytes();
  size_t plain = 0;  // start of what needs no escape
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char c = bytes[i];
    if (static_cast<uint8_t>(c) >= 0x20 && c != '"' && c != '\\') continue;
    out->Append(text, plain, i);
    plain = i + 1;
    constexpr absl::string_view kEscaped = "\"\\\b\f\n\r\t", kLetters = "\"\\bfnrt";
    const size_t known = kEscaped.find(c);
    const std::string escape = known == absl::string_view::npos ? absl::StrFormat("\\u%04x", static_cast<unsigned>(c))
                                                                : absl::StrCat("\\", std::string(1, kLetters[known]));
    out->Append(escape, text.FromTemplate(i));
  }
  out->Append(text, plain, text.size());
  out->Append("\"", /*from_template=*/true);
}

// A list that is in a list twice doubles the output with each level.
struct JsonLimits {
  int64_t bytes_max = 0;
  int64_t values_left = 1 << 20;
};

absl::Status AppendJson(const Value& value, const JsonStyle& style, int depth, JsonLimits* limits, Text* out) {
  if (static_cast<int64_t>(out->size()) > limits->bytes_max || --limits->values_left < 0) {
    return absl::InvalidArgumentError("tojson of too large a value");
  }
  if (depth > conclave::limits::kJsonDepthMax) return absl::InvalidArgumentError("tojson of a value nested too deep");
  const bool is_list = value.kind == Kind::kList;
  if (value.IsText()) {
    AppendJsonString(*value.text, out);
    return absl::OkStatus();
  }
  if (!is_list && value.kind != Kind::kDict) {
    if (value.kind == Kind::kNone || value.kind == Kind::kBool) {
      out->Append(value.kind == Kind::kNone ? "null" : value.boolean ? "true" : "false", /*from_template=*/true);
      return absl::OkStatus();
    }
    if (value.IsNumber()) return AppendPrinted(value, out);
    return absl::InvalidArgumentError(absl::StrCat("tojson of ", Describe(value), " is not supported"));
  }
  const size_t count = is_list ? value.list->size() : value.dict->entries().size();
  const auto line = [&](int levels) {
    if (style.indent >= 0 && count > 0) {
      out->Append("\n" + std::string(static_cast<size_t>(style.indent * levels), ' '), /*from_template=*/true);
    }
  };
  out->Append(is_list ? "[" : "{", /*from_template=*/true);
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) out->Append(style.item_separator, /*from_template=*/true);
    line(depth + 1);
    if (!is_list) {
      AppendJsonString(Text(value.dict->entries()[i].first, value.dict->keys_from_template()), out);
      out->Append(style.key_separator, /*from_template=*/true);
    }
    const Value& member = is_list ? (*value.list)[i] : value.dict->entries()[i].second;
    RETURN_IF_ERROR(AppendJson(member, style, depth + 1, limits, out));
  }
  line(depth);
  out->Append(is_list ? "]" : "}", /*from_template=*/true);
  return absl::OkStatus();
}

// Builds a value from the parser's events; objects are filled when they close.
class ValueBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  ValueBuilder(bool sort_keys, Arena* arena) : sort_keys_(sort_keys), arena_(arena) {}

  bool null() override { return Add(Value::None()); }
  bool boolean(bool value) override { return Add(Value::Bool(value)); }
  bool number_integer(number_integer_t value) override { return Add(Value::Int(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    const bool fits = value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    return Add(fits ? Value::Int(static_cast<int64_t>(value)) : Value::Float(static_cast<double>(value)));
  }
  bool number_float(number_float_t value, const string_t&) override { return Add(Value::Float(value)); }
  bool string(string_t& value) override { return Add(arena_->NewText(value, /*from_template=*/false)); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(); }
  bool start_array(size_t) override { return Open(); }
  bool key(string_t& name) override {
    arena_->Charge(static_cast<int64_t>(name.size() + sizeof(Member)));
    levels_.back().key = std::move(name);
    return true;
  }
  bool end_array() override {
    List items;
    items.reserve(levels_.back().members.size());
    for (Member& member : levels_.back().members) items.push_back(member.second);
    levels_.pop_back();
    return Add(arena_->NewList(std::move(items)));
  }
  bool end_object() override {
    std::vector<Member> members = std::move(levels_.back().members);
    levels_.pop_back();
    std::vector<const std::string*> keys;
    keys.reserve(members.size());
    for (const Member& member : members) keys.push_back(&member.first);
    std::sort(keys.begin(), keys.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
    for (size_t i = 1; i < keys.size(); ++i) {
      if (*keys[i - 1] == *keys[i]) return Fail(absl::StrCat("the key '", keys[i]->substr(0, 64), "' stands twice"));
    }
    if (sort_keys_) {
      std::sort(members.begin(), members.end(), [](const Member& a, const Member& b) { return a.first < b.first; });
    }
    const Value object = arena_->NewDict();
    for (Member& member : members) object.dict->AddForeign(std::move(member.first), member.second);
    return Add(object);
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Fail(JsonComplaint(error.what()));
  }

  const absl::Status& status() const { return status_; }
  const Value& root() const { return root_; }

 private:
  using Member = std::pair<std::string, Value>;
  struct Level {
    std::string key;  // of an object: of the member that comes next
    std::vector<Member> members;
  };

  bool Fail(absl::string_view what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(what);
    return false;
  }
  bool Open() {
    if (static_cast<int>(levels_.size()) >= limits::kJsonDepthMax) {
      return Fail(absl::StrCat("nested deeper than ", limits::kJsonDepthMax));
    }
    levels_.emplace_back();
    return true;
  }
  bool Add(Value value) {
    arena_->Charge(sizeof(Member));
    if (arena_->over_limit()) return Fail("too large");
    if (levels_.empty()) {
      root_ = value;
    } else {
      levels_.back().members.emplace_back(std::exchange(levels_.back().key, {}), value);
    }
    return true;
  }

  const bool sort_keys_;
  Arena* const arena_;
  Value root_;
  std::vector<Level> levels_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Text> DumpJson(const Value& value, const JsonStyle& style, int64_t bytes_max) {
  JsonLimits limits;
  limits.bytes_max = bytes_max;
  Text text;
  RETURN_IF_ERROR(AppendJson(value, style, 0, &limits, &text));
  return text;
}

absl::StatusOr<Value> ParseJson(absl::string_view text, bool sort_keys, Arena* arena) {
  // The parser takes a zero byte for the end and would not look at what follows it.
  if (text.find('\0') != absl::string_view::npos) return absl::InvalidArgumentError("not JSON: a zero byte");
  ValueBuilder builder(sort_keys, arena);
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  if (!builder.status().ok()) return builder.status();
  if (!parsed) return absl::InvalidArgumentError("not JSON");
  return builder.root();
}

}  // namespace conclave::jinja
