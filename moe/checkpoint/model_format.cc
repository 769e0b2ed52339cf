#include "moe/checkpoint/model_format.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/checkpoint/mapped_file.h"
#include "moe/checkpoint/model_file.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

constexpr char kNeeds[] = "conclave reads config.json with model.safetensors or model.safetensors.index.json";

absl::Status RefuseFile(const std::string& path) {
  std::string magic(4, '\0');
  auto file = MappedFile::Open(path, MappedFile::Extent::kOnDemand);
  if (file.ok() && (*file)->size() >= 4) static_cast<void>((*file)->Read(0, 4, magic.data()));
  if (magic == "GGUF" || absl::EndsWithIgnoreCase(path, ".gguf")) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": is a GGUF file, which is not supported; give the directory of the original model: ", kNeeds));
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": is a file; give the model's directory: ", kNeeds));
}

// The names in `directory`, sorted, so that messages do not depend on the file system.
std::vector<std::string> List(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status NoSafetensors(const std::string& directory, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (absl::EndsWithIgnoreCase(name, ".gguf")) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, ": holds GGUF weights (", name, "), which are not supported; ", kNeeds));
    }
  }
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".safetensors")) {
      return absl::NotFoundError(absl::StrCat(directory, ": has ", name,
                                              ", but neither model.safetensors nor model.safetensors.index.json; "
                                              "download the index, or rename a single file to model.safetensors"));
    }
    if (absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".pth") || absl::EndsWith(name, ".pt")) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, ": holds PyTorch weights (", name, "), which are not supported; ", kNeeds));
    }
  }
  return absl::NotFoundError(absl::StrCat(directory, ": has no weights; ", kNeeds));
}

}  // namespace

absl::Status CheckModelFormat(const std::string& directory) {
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat(directory, ": no such model directory"));
  if (!fs::is_directory(status)) return RefuseFile(directory);
  const bool weights =
      ModelFileExists(directory, "model.safetensors") || ModelFileExists(directory, "model.safetensors.index.json");
  if (!weights) return NoSafetensors(directory, List(directory));
  if (!ModelFileExists(directory, "config.json")) {
    return absl::NotFoundError(absl::StrCat(directory, ": has no config.json; ", kNeeds));
  }
  constexpr absl::string_view kUse = "; use a checkpoint in BF16, F16, F32 or FP8 with weight blocks of 128 x 128";
  if (ModelFileExists(directory, "hf_quant_config.json")) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, ": hf_quant_config.json says that ModelOpt quantised it (NVFP4 or its FP8), not supported", kUse));
  }
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    if (ModelFileExists(directory, name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(directory, ": ", name, " says that GPTQ or AWQ quantised it, not supported", kUse));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
