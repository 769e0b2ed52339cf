#include "moe/checkpoint/test_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave::test_files {

namespace fs = std::filesystem;

std::string MakeDirectory(const std::string& name) {
  const fs::path path = fs::path(TestFolder()) / name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path.string();
}

void Write(const std::string& path, absl::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  ASSERT_TRUE(file) << path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::string RawSafetensors(absl::string_view json, absl::string_view data) {
  const uint64_t length = json.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  bytes.append(json.data(), json.size());
  bytes.append(data.data(), data.size());
  return bytes;
}

std::vector<std::string> ModelDirectories(const char* shared) {
  std::vector<std::string> found;
  std::error_code error;
  // Among a test's data every file is a link; the folder that they lead to is the model directory.
  const fs::path demo = fs::canonical("models/demo/config.json", error);
  if (!error) found.push_back(demo.parent_path().string());
  if (shared == nullptr) return found;
  std::vector<fs::path> folders = {fs::path(shared) / "demo-model"};
  for (const auto& entry : fs::directory_iterator(fs::path(shared) / "reference", error)) {
    folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) {
    if (fs::exists(folder / "config.json")) found.push_back(folder.string());
  }
  return found;
}

int64_t ResidentFileBytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kilobytes = 0;
    if (word == "RssFile:" && status >> kilobytes) return kilobytes * 1024;
  }
  return -1;
}

}  // namespace conclave::test_files
