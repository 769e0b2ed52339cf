#include "cli/cluster_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

absl::StatusOr<nlohmann::json> ReadJson(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": ", strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  nlohmann::json json = nlohmann::json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::DataLossError(absl::StrCat(path, ": not JSON"));
  return json;
}

// The text of `key`, empty where it is missing or no text.
std::string TextOf(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

ClusterProcess ProcessOf(const nlohmann::json& object) {
  ClusterProcess process;
  process.role = TextOf(object, "role");
  process.name = TextOf(object, "name");
  process.grpc = TextOf(object, "grpc");
  process.http = TextOf(object, "http");
  process.metrics = TextOf(object, "metrics");
  const auto pid = object.find("pid");
  if (pid != object.end() && pid->is_number_integer()) process.pid = pid->get<int64_t>();
  return process;
}

void Append(const ClusterProcess& process, JsonWriter& json) {
  json.BeginObject().Key("role").Text(process.role).Key("name").Text(process.name).Key("pid").Number(process.pid);
  for (const auto& [key, address] : {std::pair<const char*, const std::string&>{"grpc", process.grpc},
                                     {"http", process.http},
                                     {"metrics", process.metrics}}) {
    if (!address.empty()) json.Key(key).Text(address);
  }
  json.End();
}

}  // namespace

std::string ClusterFilePath(const std::string& run_directory) { return absl::StrCat(run_directory, "/cluster.json"); }

absl::Status WriteClusterFile(const std::string& path, const std::vector<ClusterProcess>& processes) {
  JsonWriter json;
  json.BeginArray();
  for (const ClusterProcess& process : processes) Append(process, json);
  json.End();
  const std::string temporary = absl::StrCat(path, ".new");
  std::ofstream file(temporary);
  file << json.text() << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InternalError(absl::StrCat("cannot write ", path, ": ", strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ClusterProcess>> ReadClusterFile(const std::string& path) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(path));
  if (!json.is_array()) return absl::DataLossError(absl::StrCat(path, ": not a list of processes"));
  std::vector<ClusterProcess> processes;
  for (const nlohmann::json& object : json) {
    if (!object.is_object()) return absl::DataLossError(absl::StrCat(path, ": not a list of processes"));
    processes.push_back(ProcessOf(object));
  }
  return processes;
}

absl::StatusOr<ClusterProcess> ReadAddressFile(const std::string& path) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ReadJson(path));
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(path, ": not an object with addresses"));
  return ProcessOf(json);
}

absl::StatusOr<std::string> AddressOfRole(const std::vector<ClusterProcess>& processes, const std::string& role) {
  for (const ClusterProcess& process : processes) {
    if (process.role == role && !process.grpc.empty()) return process.grpc;
  }
  return absl::NotFoundError(absl::StrCat("the cluster has no ", role));
}

}  // namespace conclave
