#include "moe/checkpoint/model_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/safetensors.h"
#include "moe/checkpoint/weight_index.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

int64_t TotalBytes(const std::vector<PlannedTensor>& plan) {
  int64_t bytes = 0;
  for (const PlannedTensor& planned : plan) bytes += planned.bytes();
  return bytes;
}

// Indexes into the plan, file by file, in the order in which they are written.
std::vector<std::vector<size_t>> CutIntoFiles(const std::vector<PlannedTensor>& plan, int64_t file_bytes_max) {
  std::vector<std::vector<size_t>> files(1);
  int64_t file_bytes = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    if (!plan[i].joins_previous && !files.back().empty() && file_bytes + plan[i].bytes() > file_bytes_max) {
      files.emplace_back();
      file_bytes = 0;
    }
    files.back().push_back(i);
    file_bytes += plan[i].bytes();
  }
  for (std::vector<size_t>& file : files) {
    std::stable_sort(file.begin(), file.end(), [&](size_t a, size_t b) {
      return SizeOf(plan[a].declaration.dtype) > SizeOf(plan[b].declaration.dtype);
    });
  }
  return files;
}

// Gives `folder`, or all that is in it, to `out`.
std::error_code MoveTo(const fs::path& folder, const fs::path& out) {
  std::error_code error;
  if (!fs::is_directory(out, error)) {
    fs::rename(folder, out, error);
    return error;
  }
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    fs::rename(it->path(), out / it->path().filename(), error);
    if (error) return error;
  }
  if (!error) fs::remove(folder, error);
  return error;
}

}  // namespace

int64_t PlannedTensor::bytes() const {
  const absl::StatusOr<int64_t> bytes = TensorBytes(declaration.dtype, declaration.shape);
  CONCLAVE_CHECK(bytes.ok()) << declaration.name << ": " << bytes.status();
  return *bytes;
}

absl::Status CheckRoom(const std::string& out, const std::vector<PlannedTensor>& plan) {
  const int64_t bytes = TotalBytes(plan);
  std::error_code error;
  fs::path there = fs::absolute(out, error);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  if (error || space.available >= static_cast<uintmax_t>(bytes)) return absl::OkStatus();
  const bool large = bytes >= 1'000'000'000;
  const double unit = large ? 1e9 : 1e6;
  const char* const name = large ? "GB" : "MB";
  return absl::ResourceExhaustedError(absl::StrFormat("%s: the weights need %.1f %s, the disk has %.1f %s free", out,
                                                      static_cast<double>(bytes) / unit, name,
                                                      static_cast<double>(space.available) / unit, name));
}

absl::Status WriteModelFiles(const std::string& out, const std::vector<PlannedTensor>& plan, int64_t file_bytes_max,
                             AppendTensor append) {
  const std::vector<std::vector<size_t>> files = CutIntoFiles(plan, file_bytes_max);
  WeightIndex index;
  index.total_bytes = TotalBytes(plan);
  for (size_t i = 0; i < files.size(); ++i) {
    index.files.push_back(files.size() == 1 ? "model.safetensors"
                                            : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, files.size()));
    std::vector<SafetensorsDeclaration> declarations;
    for (const size_t tensor : files[i]) declarations.push_back(plan[tensor].declaration);
    ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(absl::StrCat(out, "/", index.files.back()), declarations));
    for (const size_t tensor : files[i]) {
      RETURN_IF_ERROR(append(tensor, *writer));
      index.entries.push_back({plan[tensor].declaration.name, static_cast<int>(i)});
    }
    RETURN_IF_ERROR(writer->Finish());
  }
  if (files.size() == 1) return absl::OkStatus();
  return WriteTextFile(absl::StrCat(out, "/model.safetensors.index.json"), FormatWeightIndex(index));
}

absl::Status WriteModelDirectory(const std::string& out,
                                 absl::FunctionRef<absl::Status(const std::string& folder)> write) {
  std::error_code error;
  const fs::path target = fs::absolute(out, error).lexically_normal();
  const bool is_there = fs::is_directory(target, error);
  if (!is_there && fs::exists(fs::symlink_status(target, error))) {
    return absl::AlreadyExistsError(absl::StrCat(out, ": exists already and is no directory; give another name"));
  }
  // Inside where it is there: it may be where another disk is mounted.
  const std::string suffix = absl::StrCat(".partial.", getpid());
  const fs::path named = target.has_filename() ? target : target.parent_path();
  const fs::path folder = is_there ? named / suffix : fs::path(named.string() + suffix);
  std::vector<fs::path> created;  // parents, the deepest first
  for (fs::path parent = folder.parent_path(); !fs::exists(parent, error); parent = parent.parent_path()) {
    created.push_back(parent);
  }
  absl::Status status;
  if (!fs::create_directories(folder, error) && error) {
    status = absl::UnavailableError(absl::StrCat(out, ": cannot create: ", error.message()));
  } else {
    status = write(folder.string());
  }
  if (status.ok()) {
    if (error = MoveTo(folder, named); !error) return absl::OkStatus();
    status = absl::UnavailableError(absl::StrCat(out, ": cannot take the name: ", error.message()));
  }
  fs::remove_all(folder, error);
  for (const fs::path& parent : created) fs::remove(parent, error);
  return status;
}

absl::Status WriteTextFile(const std::string& path, absl::string_view text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (file) return absl::OkStatus();
  const std::string message = absl::StrCat(path, ": cannot write: ", std::generic_category().message(errno));
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  return full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

}  // namespace conclave
