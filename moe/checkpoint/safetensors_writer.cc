#include "moe/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/safetensors.h"

namespace conclave {
namespace {

constexpr int64_t kBufferBytes = 1 << 20;
constexpr size_t kDataAlignment = 64;

std::string PartialPath(const std::string& path) { return path + ".partial"; }

std::string JsonString(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", static_cast<int>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// The header with its length before it; adds up the data's size.
absl::StatusOr<std::string> FormatHeader(const std::vector<SafetensorsDeclaration>& tensors, int64_t& data_bytes) {
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"}";
  absl::flat_hash_set<std::string> names = {"__metadata__"};
  data_bytes = 0;
  for (const SafetensorsDeclaration& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " is declared twice"));
    }
    absl::StatusOr<int64_t> bytes = TensorBytes(tensor.dtype, tensor.shape);
    int64_t end = 0;
    if (!bytes.ok() || __builtin_add_overflow(data_bytes, *bytes, &end)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, ": its shape is beyond 2^63 bytes"));
    }
    absl::StrAppend(&json, ",", JsonString(tensor.name), ":{\"dtype\":\"", Name(tensor.dtype), "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", data_bytes, ",", end, "]}");
    data_bytes = end;
  }
  json += "}";
  while ((sizeof(uint64_t) + json.size()) % kDataAlignment != 0) json += ' ';
  if (static_cast<int64_t>(json.size()) > limits::kSafetensorsHeaderBytesMax) {
    return absl::InvalidArgumentError("too many tensors for one safetensors file");
  }
  const uint64_t length = json.size();
  std::string header(sizeof(length), '\0');
  std::memcpy(header.data(), &length, sizeof(length));
  return header + json;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<SafetensorsDeclaration>& tensors) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter);
  writer->path_ = path;
  ASSIGN_OR_RETURN(writer->buffer_, FormatHeader(tensors, writer->bytes_left_));
  writer->descriptor_ = open(PartialPath(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->descriptor_ < 0) return writer->Error("cannot create");
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(PartialPath(path_).c_str());
}

absl::Status SafetensorsWriter::Error(const char* action) const {
  const int error = errno;
  const std::string text = absl::StrCat(path_, ": ", action, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(text);
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(text);
  return absl::UnavailableError(text);
}

absl::Status SafetensorsWriter::WriteOut(const char* data, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t written = write(descriptor_, data, static_cast<size_t>(bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error("cannot write");
    data += written;
    bytes -= written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::FlushBuffer() {
  RETURN_IF_ERROR(WriteOut(buffer_.data(), static_cast<int64_t>(buffer_.size())));
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(const void* data, int64_t bytes) {
  CONCLAVE_CHECK(bytes >= 0 && bytes <= bytes_left_) << path_ << ": " << bytes << " of " << bytes_left_ << " left";
  bytes_left_ -= bytes;
  if (static_cast<int64_t>(buffer_.size()) + bytes > kBufferBytes) RETURN_IF_ERROR(FlushBuffer());
  if (bytes >= kBufferBytes) return WriteOut(static_cast<const char*>(data), bytes);
  buffer_.append(static_cast<const char*>(data), static_cast<size_t>(bytes));
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  CONCLAVE_CHECK(bytes_left_ == 0) << path_ << ": " << bytes_left_ << " bytes were declared and not written";
  RETURN_IF_ERROR(FlushBuffer());
  if (close(descriptor_) != 0) {
    descriptor_ = -1;
    const absl::Status status = Error("cannot close");
    unlink(PartialPath(path_).c_str());
    return status;
  }
  descriptor_ = -1;
  if (std::rename(PartialPath(path_).c_str(), path_.c_str()) == 0) return absl::OkStatus();
  const absl::Status status = Error("cannot rename the partial file");
  unlink(PartialPath(path_).c_str());
  return status;
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsArray>& arrays) {
  // In descending order of element size every tensor is aligned; names break ties, so that equal content gives
  // equal bytes.
  std::vector<SafetensorsArray> sorted = arrays;
  std::sort(sorted.begin(), sorted.end(), [](const SafetensorsArray& a, const SafetensorsArray& b) {
    return SizeOf(a.dtype) != SizeOf(b.dtype) ? SizeOf(a.dtype) > SizeOf(b.dtype) : a.name < b.name;
  });
  std::vector<SafetensorsDeclaration> declarations;
  for (const SafetensorsArray& array : sorted) declarations.push_back({array.name, array.dtype, array.shape});
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, declarations));
  for (const SafetensorsArray& array : sorted) {
    ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(array.dtype, array.shape));
    RETURN_IF_ERROR(writer->Append(array.data, bytes));
  }
  return writer->Finish();
}

}  // namespace conclave
