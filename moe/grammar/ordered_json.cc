#include "moe/grammar/ordered_json.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "moe/base/json_complaint.h"
#include "moe/base/limits.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using Kind = OrderedJson::Kind;

class TreeBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Add({}); }
  bool boolean(bool value) override { return Add({.kind = Kind::kBoolean, .boolean = value}); }
  bool number_integer(number_integer_t value) override { return AddInteger(static_cast<double>(value), value); }
  bool number_unsigned(number_unsigned_t value) override { return AddInteger(static_cast<double>(value), value); }
  bool number_float(number_float_t value, const string_t& text) override {
    return Add({.kind = Kind::kFloat, .number = value, .text = text});
  }
  bool string(string_t& value) override { return Add({.kind = Kind::kString, .text = std::move(value)}); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(Kind::kObject); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(Kind::kArray); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (!level.names.insert(name).second)
      return Fail(absl::StrCat("'", name.substr(0, 64), "' stands twice in one object"));
    level.node.names.push_back(std::move(name));
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Fail(JsonComplaint(error.what()));
  }

  const std::string& complaint() const { return complaint_; }
  OrderedJson TakeRoot() { return std::move(root_); }

 private:
  struct Level {
    OrderedJson node;
    absl::flat_hash_set<std::string> names;
  };

  bool Fail(absl::string_view what) {
    if (complaint_.empty()) complaint_ = std::string(what);
    return false;
  }
  template <typename Integer>
  bool AddInteger(double number, Integer value) {
    return Add({.kind = Kind::kInteger, .number = number, .text = absl::StrCat(value)});
  }
  bool Add(OrderedJson value) {
    if (levels_.empty()) {
      root_ = std::move(value);
    } else {
      levels_.back().node.items.push_back(std::move(value));
    }
    return true;
  }
  bool Open(Kind kind) {
    if (static_cast<int>(levels_.size()) >= limits::kJsonDepthMax) {
      return Fail(absl::StrCat("is nested deeper than ", limits::kJsonDepthMax));
    }
    levels_.push_back({OrderedJson{.kind = kind}, {}});
    return true;
  }
  bool Close() {
    OrderedJson node = std::move(levels_.back().node);
    levels_.pop_back();
    return Add(std::move(node));
  }

  OrderedJson root_;
  std::vector<Level> levels_;
  std::string complaint_;
};

}  // namespace

const OrderedJson* OrderedJson::Find(absl::string_view name) const {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return &items[i];
  }
  return nullptr;
}

absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text) {
  if (text.find('\0') != absl::string_view::npos) return absl::InvalidArgumentError("holds a zero byte");
  TreeBuilder builder;
  const bool parsed = nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  if (!parsed || !builder.complaint().empty()) {
    return absl::InvalidArgumentError(builder.complaint().empty() ? "is not valid JSON" : builder.complaint());
  }
  return builder.TakeRoot();
}

std::string JsonQuoted(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string WriteJson(const OrderedJson& value) {
  std::string text, separator;
  switch (value.kind) {
    case Kind::kNull:
      return "null";
    case Kind::kBoolean:
      return value.boolean ? "true" : "false";
    case Kind::kInteger:
    case Kind::kFloat:
      return value.text;
    case Kind::kString:
      return JsonQuoted(value.text);
    case Kind::kArray:
      for (const OrderedJson& item : value.items) {
        absl::StrAppend(&text, separator, WriteJson(item));
        separator = ",";
      }
      return absl::StrCat("[", text, "]");
    case Kind::kObject:
      for (size_t i = 0; i < value.names.size(); ++i) {
        absl::StrAppend(&text, separator, JsonQuoted(value.names[i]), ":", WriteJson(value.items[i]));
        separator = ",";
      }
      return absl::StrCat("{", text, "}");
  }
  return text;
}

}  // namespace conclave
