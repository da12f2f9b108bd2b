import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** One question with the JDK's own client, which offers HTTP/2 first. Prints the status, then the answer as it comes. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        // settings
        String stream = arguments[0];
        String body = "{\"model\": \"" + model + "\", \"max_tokens\": 12, \"stream\": " + stream
            + ", \"messages\": [{\"role\": \"user\", \"content\": \"Say hello.\"}]}";
        HttpRequest request = asking.POST(HttpRequest.BodyPublishers.ofString(body)).build();
        HttpResponse<java.io.InputStream> answer =
            HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofInputStream());
        System.out.println(answer.statusCode());
        // What has come is printed even where the rest doesn't.
        answer.body().transferTo(System.out);
    }
}
