// The JSON of a safetensors header, read event by event: a tree of a hostile 100 MB header would cost gigabytes,
// and would silently keep only the last of two tensors with one name.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moe/base/json_complaint.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"

namespace conclave {
namespace {

// How a name from outside stands in a message: printable and short.
std::string Printable(absl::string_view name) {
  const std::string escaped = absl::CHexEscape(name.substr(0, 200));
  return absl::StrCat("\"", escaped, name.size() > 200 ? "…\"" : "\"");
}

// Receives the events of nlohmann's parser, which is iterative. Every method returns false to stop, with status_ set.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool number_integer(number_integer_t value) override { return Unexpected(absl::StrCat("the number ", value)); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ != Where::kShape && where_ != Where::kOffsets) return Unexpected(absl::StrCat("the number ", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Unexpected(absl::StrCat("the number ", value));
    }
    std::vector<int64_t>& list = where_ == Where::kShape ? entry_.shape : offsets_;
    const size_t most = where_ == Where::kShape ? limits::kTensorRankMax : 2;
    if (list.size() == most) return Fail(absl::StrCat(Context(), " has more than ", most, " numbers"));
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == Where::kMetadata) return true;
    if (where_ != Where::kEntry || key_ != "dtype") return Unexpected("a string");
    absl::StatusOr<DType> dtype = ParseDType(value);
    if (!dtype.ok()) return Fail(absl::StrCat("tensor ", Printable(entry_.name), ": unknown dtype ", Printable(value)));
    entry_.dtype = *dtype;
    return true;
  }

  bool start_object(size_t) override {
    if (where_ == Where::kStart) {
      where_ = Where::kTop;
    } else if (where_ == Where::kTop && key_ == "__metadata__") {
      where_ = Where::kMetadata;
    } else if (where_ == Where::kTop) {
      where_ = Where::kEntry;
      entry_ = {};
      entry_.name = key_;
      offsets_.clear();
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
    } else {
      return Unexpected("an object");
    }
    return true;
  }

  bool key(string_t& key) override {
    key_ = key;
    if (where_ == Where::kTop && !names_.insert(key).second) {
      return Fail(absl::StrCat("the name ", Printable(key), " stands twice"));
    }
    if (where_ == Where::kMetadata && !metadata_keys_.insert(key).second) {
      return Fail(absl::StrCat("__metadata__ has the key ", Printable(key), " twice"));
    }
    if (where_ != Where::kEntry) return true;
    bool* seen = key == "dtype" ? &seen_dtype_ : key == "shape" ? &seen_shape_ : &seen_offsets_;
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return Fail(absl::StrCat("tensor ", Printable(entry_.name), " has the unknown key ", Printable(key)));
    }
    if (*seen) return Fail(absl::StrCat("tensor ", Printable(entry_.name), " has two of ", key));
    *seen = true;
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kTop) {
      where_ = Where::kEnd;
      return true;
    }
    if (where_ == Where::kEntry) {
      const char* missing = !seen_dtype_ ? "dtype" : !seen_shape_ ? "shape" : !seen_offsets_ ? "data_offsets" : nullptr;
      if (missing != nullptr) return Fail(absl::StrCat("tensor ", Printable(entry_.name), " has no ", missing));
      if (offsets_.size() != 2) return Fail(absl::StrCat(Context(), ": data_offsets must be two numbers"));
      entry_.begin = offsets_[0];
      entry_.end = offsets_[1];
      entries_.push_back(std::move(entry_));
    }
    where_ = Where::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (where_ != Where::kEntry || key_ == "dtype") return Unexpected("a list");
    where_ = key_ == "shape" ? Where::kShape : Where::kOffsets;
    return true;
  }

  bool end_array() override {
    where_ = Where::kEntry;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    return Fail(absl::StrCat("header is not valid JSON at byte ", position, ": ",
                             absl::CHexEscape(JsonComplaint(error.what()).substr(0, 300))));
  }

  const absl::Status& status() const { return status_; }
  std::vector<SafetensorsEntry> TakeEntries() { return std::move(entries_); }

 private:
  enum class Where { kStart, kTop, kMetadata, kEntry, kShape, kOffsets, kEnd };

  std::string Context() const {
    switch (where_) {
      case Where::kStart:
      case Where::kEnd:
        return "header";
      case Where::kTop:
        return absl::StrCat("entry ", Printable(key_));
      case Where::kMetadata:
        return "__metadata__";
      case Where::kEntry:
        return absl::StrCat("tensor ", Printable(entry_.name), ": ", key_);
      case Where::kShape:
        return absl::StrCat("tensor ", Printable(entry_.name), ": shape");
      case Where::kOffsets:
        return absl::StrCat("tensor ", Printable(entry_.name), ": data_offsets");
    }
    return "header";
  }
  bool Unexpected(absl::string_view what) { return Fail(absl::StrCat(Context(), " must not be or hold ", what)); }
  bool Fail(absl::string_view text) {
    if (status_.ok()) status_ = absl::DataLossError(text);
    return false;
  }

  Where where_ = Where::kStart;
  std::string key_;
  SafetensorsEntry entry_;
  std::vector<int64_t> offsets_;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
  absl::flat_hash_set<std::string> names_, metadata_keys_;
  std::vector<SafetensorsEntry> entries_;
  absl::Status status_;
};

// `entries` must be sorted by offset: together they cover [0, data_bytes) without overlap, hole or rest.
absl::Status CheckLayout(const std::vector<SafetensorsEntry>& entries, int64_t data_bytes) {
  int64_t at = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::string name =
        absl::StrCat("tensor ", Printable(entry.name), ": offsets [", entry.begin, ", ", entry.end, ")");
    if (entry.end < entry.begin) return absl::DataLossError(absl::StrCat(name, " run backwards"));
    if (entry.end > data_bytes) {
      return absl::DataLossError(absl::StrCat(name, " reach past the ", data_bytes, " bytes of data"));
    }
    if (entry.begin < at) return absl::DataLossError(absl::StrCat(name, " overlap the tensor before, to ", at));
    if (entry.begin > at) return absl::DataLossError(absl::StrCat(name, " leave a hole from ", at));
    absl::StatusOr<int64_t> bytes = TensorBytes(entry.dtype, entry.shape);
    if (!bytes.ok()) {
      return absl::DataLossError(absl::StrCat("tensor ", Printable(entry.name), ": ", bytes.status().message()));
    }
    if (*bytes != entry.end - entry.begin) {
      return absl::DataLossError(absl::StrCat(name, " hold ", entry.end - entry.begin, " bytes, but shape and dtype ",
                                              Name(entry.dtype), " need ", *bytes));
    }
    at = entry.end;
  }
  if (at == data_bytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("no tensor owns the ", data_bytes - at, " bytes from offset ", at));
}

}  // namespace

absl::StatusOr<int64_t> TensorBytes(DType dtype, absl::Span<const int64_t> shape) {
  if (shape.size() > limits::kTensorRankMax) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", limits::kTensorRankMax, " dimensions"));
  }
  int64_t bytes = SizeOf(dtype);
  for (const int64_t size : shape) {
    if (size < 0) return absl::InvalidArgumentError(absl::StrCat("negative size ", size));
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return absl::InvalidArgumentError("shape times dtype is beyond 2^63 bytes");
    }
  }
  return bytes;
}

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view json, int64_t data_bytes) {
  // The format demands it, and a JSON parser alone would let a byte order mark pass.
  if (json.empty() || json[0] != '{') return absl::DataLossError("header does not begin with {");
  // nlohmann's parser takes a zero byte for the end and would not look at what follows it.
  if (const size_t zero = json.find('\0'); zero != absl::string_view::npos) {
    return absl::DataLossError(absl::StrCat("header is not valid JSON at byte ", zero, ": a zero byte"));
  }
  HeaderHandler handler;
  const bool parsed = nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  RETURN_IF_ERROR(handler.status());
  if (!parsed) return absl::DataLossError("header is not valid JSON");
  std::vector<SafetensorsEntry> entries = handler.TakeEntries();
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  RETURN_IF_ERROR(CheckLayout(entries, data_bytes));
  return entries;
}

}  // namespace conclave
