#include "moe/checkpoint/safetensors.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr int64_t kLengthBytes = 8;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian, and are used in place");

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path,
                                                                       MappedFile::Extent extent) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  ASSIGN_OR_RETURN(file->map_, MappedFile::Open(path, extent));
  const MappedFile& map = *file->map_;
  if (map.size() < kLengthBytes) {
    return absl::DataLossError(absl::StrCat(path, ": has ", map.size(), " bytes; a safetensors file has at least 8"));
  }
  uint64_t header_bytes = 0;
  RETURN_IF_ERROR(map.Read(0, kLengthBytes, &header_bytes));
  if (header_bytes > static_cast<uint64_t>(limits::kSafetensorsHeaderBytesMax)) {
    return absl::DataLossError(absl::StrCat(path, ": header of ", header_bytes,
                                            " bytes is beyond the format's limit of ",
                                            limits::kSafetensorsHeaderBytesMax, " (is this a safetensors file?)"));
  }
  const int64_t data_begin = kLengthBytes + static_cast<int64_t>(header_bytes);
  if (data_begin > map.size()) {
    return absl::DataLossError(absl::StrCat(path, ": header of ", header_bytes,
                                            " bytes at offset 8 reaches past the end of the file at ", map.size()));
  }
  std::string header(header_bytes, '\0');
  RETURN_IF_ERROR(map.Read(kLengthBytes, static_cast<int64_t>(header_bytes), header.data()));
  auto entries = ParseSafetensorsHeader(header, map.size() - data_begin);
  if (!entries.ok()) return InFile(path, entries.status());
  file->tensors_.reserve(entries->size());
  for (SafetensorsEntry& entry : *entries) {
    file->tensors_.emplace(std::move(entry.name),
                           SafetensorsTensor{entry.dtype, std::move(entry.shape), map.data() + data_begin + entry.begin,
                                             entry.end - entry.begin, file.get()});
  }
  return file;
}

absl::Status SafetensorsFile::Map(const SafetensorsTensor& tensor) const {
  CONCLAVE_CHECK(tensor.file == this) << "a tensor of another file";
  return map_->Map(tensor.data - map_->data(), tensor.bytes);
}

}  // namespace conclave
