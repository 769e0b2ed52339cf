#include "gateway/request_parser.h"

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "moe/tokenizer/utf8.h"

namespace conclave {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMessageDepthMax = 16;

// The path of the first string in `bytes`, a message of `type`, that is not UTF-8. Recursion ends with the types:
// none of ours contains itself.
std::optional<std::string> FindBadString(const Descriptor* type, absl::string_view bytes, int depth) {
  CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return std::nullopt;
      continue;
    }
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return std::nullopt;
    const size_t begin = static_cast<size_t>(in.CurrentPosition());
    if (length > bytes.size() - begin || !in.Skip(static_cast<int>(length))) return std::nullopt;
    const absl::string_view value = bytes.substr(begin, length);
    const FieldDescriptor* field = type->FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (field == nullptr) continue;
    if (field->type() == FieldDescriptor::TYPE_STRING && !IsUtf8(value)) return field->name();
    if (field->type() == FieldDescriptor::TYPE_MESSAGE && depth < kMessageDepthMax) {
      const auto inner = FindBadString(field->message_type(), value, depth + 1);
      if (inner.has_value()) return absl::StrCat(field->name(), ".", *inner);
    }
  }
  return std::nullopt;
}

}  // namespace

absl::Status ParseRequest(absl::string_view bytes, google::protobuf::Message* message) {
  if (message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return absl::OkStatus();
  const std::optional<std::string> field = FindBadString(message->GetDescriptor(), bytes, 0);
  if (field.has_value()) return absl::InvalidArgumentError(absl::StrCat(*field, ": is not UTF-8"));
  return absl::InvalidArgumentError(
      absl::StrCat("the request is damaged: its bytes are no ", message->GetDescriptor()->full_name()));
}

}  // namespace conclave
