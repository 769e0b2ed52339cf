#include "moe/daemon/model_name.h"

#include <filesystem>

namespace conclave {

std::string ModelName(const std::string& model, const std::string& directory) {
  if (model != directory) return model.substr(0, model.find('@'));
  std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  const std::string name = path.filename().string();
  return name.empty() || name == "." || name == ".." ? "model" : name;
}

}  // namespace conclave
